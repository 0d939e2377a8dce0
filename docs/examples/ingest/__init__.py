"""The parts of the example ``ingest_video.py``.

``media``   builds the demonstration video and looks at the caller's own.
``stages``  the pipeline: keyframes, transcript, descriptions, embeddings; knows no cache.
``minilm``  all-MiniLM-L6-v2 in numpy, the model behind the embeddings.
``cached``  the same pipeline through cogcache: the part to read, and to copy.
``story``   runs the cached pipeline under changing circumstances.
``watch``, ``terminal``, ``report``  measure it, print it, draw the contact sheet.
``command``, ``files``  the command line, the video file, Ctrl-C.
"""
