"""The live page: static files, the stream of the newest figures, their history, and the API for changes.

``klais.worker.web`` adds it to every worker; :mod:`klais.cli.ui` serves it from recorded figures. The page is plain ES
modules in ``static/``; it needs no build step and loads nothing from another host.
"""
