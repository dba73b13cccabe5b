"""A reverse proxy for JSON packets over TCP that routes every packet by the privacy policy it asks for."""

__version__ = "1.0.0"
