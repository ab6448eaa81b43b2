"""The pages for people: the table of jobs, a job with its output, the form, the login. Rendered here, no build."""
