"""Cases that Outrigger does not pass, and why that is borne; each is shown in the report all the same."""

KNOWN = {
    "http2": {
        "3.4 another frame than SETTINGS first": "the library answers it: nothing else follows from it",
        "8.1 a pseudo-field in trailers": "the library drops it: it reaches no instance",
    },
    "websocket-http2": {},
}


def borne(suite, case):
    return case in KNOWN.get(suite, {})
