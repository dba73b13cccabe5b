"""The admin listener: what people, monitors and commands ask of a running proxy, over HTTP (docs/reference/admin.rst).

``guarding`` says who may ask what, ``answers`` what is answered, ``describing`` describes that by OpenAPI. ``routes``
asks the proxy's :class:`rproxy.control.Control`, ``streaming`` tells what happens as it does, ``files`` has the
pages. ``metrics`` makes of the figures what Prometheus reads, in the words of ``exposition``, and ``scraping`` does so
a little in each turn. ``site`` is the edge to HTTP, over the connections of ``channel``, and ``service`` keeps the
listener until the proxy has stopped.
"""
