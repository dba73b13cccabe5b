"""What any service of ours does about the process that it is, and that Twisted leaves open."""
