"""From what others keep their jobs in to ours: Meproc, supervisord, crontab, Procfile. Pure; imports only model.

Each module reads one format and makes a `report.Report`: the jobs, and entry by entry what became of each field.
"""
