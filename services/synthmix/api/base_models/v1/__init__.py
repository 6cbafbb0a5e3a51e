"""Generated from protos/ by protos/generate.py. Not to be edited."""
