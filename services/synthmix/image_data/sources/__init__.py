"""A user's source of images, which is a folder, a ZIP or a manifest: its files, their labels, and an account of them.

Client and server read a source by the same code. Only the standard library, but for Parquet and group patterns.
"""
