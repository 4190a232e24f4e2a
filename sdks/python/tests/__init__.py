"""`python -m unittest discover -s sdks/python -t sdks/python`."""
