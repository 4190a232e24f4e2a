"""The smallest database the Python plugin SDK's record hooks accept.

The Python SDK opens a transaction for every record hook, whether or not the
hook uses its `db` argument. This server speaks just enough of the PostgreSQL
protocol for that: it lets a client connect, begin, set the search path, and
commit or roll back; it refuses everything else with SQLSTATE 0A000, so that a
hook which does use `db` fails with a clear message.

    python null_database.py 127.0.0.1 34060
    DATABASE_URL=postgresql://plugin@127.0.0.1:34060/none py-skygear ...

It prints its address, and takes any port for 0. It holds no data: a test that
needs direct SQL needs a real database.
"""
import socketserver
import struct
import sys

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
TEXT = 25

# What the client library asks when it first connects: column name and answer.
ANSWERS = {
    "select pg_catalog.version()": ("version", "PostgreSQL 12.0"),
    "select version()": ("version", "PostgreSQL 12.0"),
    "select current_schema()": ("current_schema", "public"),
    "show transaction isolation level":
        ("transaction_isolation", "read committed"),
    "show standard_conforming_strings":
        ("standard_conforming_strings", "on"),
}
PARAMETERS = {
    "server_version": "12.0", "server_encoding": "UTF8",
    "client_encoding": "UTF8", "standard_conforming_strings": "on",
    "DateStyle": "ISO, MDY", "TimeZone": "UTC", "integer_datetimes": "on",
}


class Session(socketserver.StreamRequestHandler):
    state = b"I"  # idle, in a transaction, or in a failed one (I, T, E)

    def read(self, size):
        data = self.rfile.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def send(self, kind, body=b""):
        self.wfile.write(kind + struct.pack("!i", len(body) + 4) + body)

    def handle(self):
        try:
            self.start()
            while True:
                kind = self.read(1)
                body = self.read(struct.unpack("!i", self.read(4))[0] - 4)
                if kind == b"X":
                    return
                if kind == b"Q":
                    self.query(body.rstrip(b"\0").decode("utf-8"))
                elif kind == b"S":
                    self.send(b"Z", self.state)
                else:
                    self.refuse("only simple queries are served")
        except (EOFError, ConnectionError):
            pass

    def start(self):
        while True:
            body = self.read(struct.unpack("!i", self.read(4))[0] - 4)
            code = struct.unpack("!i", body[:4])[0]
            if code in (SSL_REQUEST, GSS_REQUEST):
                self.wfile.write(b"N")
                continue
            if code == CANCEL_REQUEST:
                raise EOFError
            break
        self.send(b"R", struct.pack("!i", 0))  # no password asked
        for name, value in PARAMETERS.items():
            self.send(b"S", ("%s\0%s\0" % (name, value)).encode())
        self.send(b"Z", self.state)

    def query(self, sql):
        words = " ".join(sql.split()).rstrip("; ").lower()
        verb = words.split(" ")[0] if words else ""
        if verb == "begin":
            self.state = b"T"
        elif verb in ("commit", "rollback"):
            verb = "rollback" if self.state == b"E" else verb
            self.state = b"I"
        elif words in ANSWERS:
            self.row(*ANSWERS[words])
            return
        elif "typname = 'hstore'" in words:
            self.rows(["oid", "typarray"], [])
            return
        elif not words.startswith("set search_path"):
            self.refuse("this plugin has no SQL access: use the record API")
            return
        self.done(verb.upper())

    def row(self, name, value):
        self.rows([name], [[value]])

    def rows(self, names, rows):
        columns = b"".join(
            name.encode() + b"\0" + struct.pack("!ihihih", 0, 0, TEXT, -1,
                                                -1, 0) for name in names)
        self.send(b"T", struct.pack("!h", len(names)) + columns)
        for row in rows:
            cells = b"".join(struct.pack("!i", len(cell)) + cell
                             for cell in (value.encode() for value in row))
            self.send(b"D", struct.pack("!h", len(row)) + cells)
        self.done("SELECT %d" % len(rows))

    def refuse(self, message):
        if self.state == b"T":
            self.state = b"E"
        fields = (("S", "ERROR"), ("V", "ERROR"), ("C", "0A000"),
                  ("M", message))
        self.send(b"E", b"".join(key.encode() + value.encode() + b"\0"
                                 for key, value in fields) + b"\0")
        self.send(b"Z", self.state)

    def done(self, tag):
        self.send(b"C", tag.encode() + b"\0")
        self.send(b"Z", self.state)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    address = (sys.argv[1], int(sys.argv[2]))
    with Server(address, Session) as server:
        print("%s:%d" % server.server_address, flush=True)
        server.serve_forever()
