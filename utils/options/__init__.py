"""The machinery behind config.py. Nothing here loads torch: a mistake on the command line is answered at once."""
