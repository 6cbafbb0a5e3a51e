"""What every SynthMix service stands on: server life cycle, operations, artifacts, errors, metrics, the environment.

No machine learning and no study logic. Nothing here imports torch; Ray is imported only where an operation starts.
"""
