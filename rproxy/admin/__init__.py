"""What a running proxy shows and takes over HTTP."""
