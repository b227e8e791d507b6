"""Measuring: this package's engine and, beside it, the engines that a user could pick instead.

Imported by ``earmark bench`` and the scripts in ``benchmarks/`` only. torch and the other engines
are imported where they run: in processes of their own.
"""
