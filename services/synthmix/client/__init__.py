"""The typed client, and what reaches a stack: by its address, its home on this machine, or a release of the chart."""
