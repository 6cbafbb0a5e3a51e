"""The search of a study: which of its adapters to train how far, within a budget of worker time.

`decisions` says what to do next, from what has been done and nothing else; `sampling` which adapter to try next, by
Optuna; `rungs` what doing it is: requests to the other services; `history` keeps what has been done; `search_run` does
it.
"""
