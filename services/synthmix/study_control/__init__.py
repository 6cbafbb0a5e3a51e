"""Study control: datasets and splits, studies from specification to report, and bytes in and out.

front_end         how it is served
dataset_service, study_service, artifact_service, clusters, all_operations
                  the gRPC services, a file each
datasets          what a dataset's or a split's request means
image_import      a ZIP of labelled images becomes a dataset
split             a dataset becomes train, validation and test
specification     a study's defaults, checks and expansion into steps
planning          what a study would do and cost, asked of the other services
step_services     the other services, as study control calls them
search            which of a study's adapters are trained how far, if not all are
study_operation   one study: its search, its steps, then the report
study_run         each step when its inputs are there, and study_progress, what is shown meanwhile
report            the report's page, JSON and CSV
"""
