"""`make soak`: callers work for hours while something is killed, hung or full each minute, and nothing may be lost.

catalogue      which datasets and studies the callers ask for, by seed
schedule       what is done to the stack and when, by seed
disturbances   doing it, and which errors it excuses
callers        what a caller does, and the ledger of what it was promised
evidence       what object storage says was made, again, and with which digests
measures       memory and disk, and whether they are flat
results        soak.json and soak.md
"""
