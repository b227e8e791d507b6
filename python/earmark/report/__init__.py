"""One HTML file of tables and plots of model files and of what commands found out about them.

``results`` reads what other commands printed with ``--json``, ``contents`` collects a folder,
``figures`` draws, ``page`` writes. Needs matplotlib (an extra).
"""
