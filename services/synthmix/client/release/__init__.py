"""A release of the Helm chart, reached through the Kubernetes API: who asks, what is there, its token, its forwards.

Nothing of this is imported unless a release is asked for: Kubernetes' client takes a second.
"""
