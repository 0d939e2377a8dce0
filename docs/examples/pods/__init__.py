"""The parts of the example ``fleet.py``: many machines, one cache.

``pod``    what runs in a pod: the configuration to read, and to copy, and the pipeline of
           ``ingest/cached.py`` as it is.
``story``  starts pods, kills one, restarts it, and prints what each of them did.
``store``  the S3 store of the example.
"""
