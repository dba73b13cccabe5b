"""What systemd is told and handed: states of a service, and units (docs/deploy.rst)."""
