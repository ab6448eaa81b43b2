"""The K12AI front door: training tasks, their messages, and what the platform is doing."""
