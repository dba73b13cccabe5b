"""What systemd is told and handed (docs/deploy.rst).

``messages`` has what is said, ``service`` says it while a service runs, and ``units`` are what is installed.
"""
