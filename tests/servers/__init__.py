"""Real servers for the tests: installed once per machine, started on free ports, gone with the test run.

A server that this machine cannot provide is skipped by name, with what to do about it; where ``CI=true``
that skip is a failure.
"""
