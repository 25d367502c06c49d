"""`make bench`: how fast, beside what else, and with how much memory; goals printed with the figures.

Every comparison is made in one run on one machine: the compared ones take turns for several rounds, each measured client in a
process of its own so that its CPU time is its own, and what is compared is the ratio within a round.

    decoding   DL/T 645 frames per CPU second, beside PyPI `dlt645`
    reading    DL/T 645 reads over many TCP connections, into the store, beside the bare event loop and PyPI `dlt645`
    modbus     Modbus TCP reads of 60 registers over one connection and over eight, into the store, beside pymodbus' async client
    late       Modbus RTU over TCP with a tenth of the replies late: what is misattributed, beside pymodbus' async client
    memory     of an idle meter
    wire       how much of a slow line's time is used, beside PyPI `dlt645`
    ingest     durable reads per second through writer and store, with and without truth checks, and bytes on disk per read
    replay     events of the feed per second over HTTP, beside a plain file of the same bytes from the same server
    drain      a backlog of a day of 1,000 meters to a webhook, an MQTT broker and a NATS stream
    audit      records of the audit log proven per CPU second by both verifiers, beside plain SHA-256 over the same bytes

`make bench` runs all of them; `python -m tests.bench --only modbus --rounds 3` one, and `--json` prints for programs.
"""
