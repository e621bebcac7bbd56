"""What the command line shows. Each file needs what its command needs, so none is imported here."""
