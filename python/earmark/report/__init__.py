"""One HTML file of tables and plots of model files, and of what commands found out about them.

``results`` reads what commands printed with ``--json``, ``contents`` a model file or a folder, and
``scoring`` runs the models on trials. ``curves`` computes what ``figures`` draws, ``sections`` and
``models`` put it into words, ``page`` and ``svg`` make HTML of it. Needs matplotlib (an extra).
"""
