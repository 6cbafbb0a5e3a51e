"""The strategies of the field as presets of a study: a YAML file each, and the module that reads and fills by them.

Presets are of studies alone: study_control fills a study's sections with them, so that the other services, and the
addresses of what they make, know nothing of presets.
"""
