"""States facts of the manual, as tables and pure functions: what an x86-64 CPU is. Imports nothing of ours."""
