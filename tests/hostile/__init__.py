"""Hostile cases over the command line: what users and their files do to a program.

Each case is one command and the outcome that is promised (:class:`hostile.case.Outcome`); the
promises, and how many cases stand behind each, are in ``docs/reliability.md``.
"""
