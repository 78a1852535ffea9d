"""URLs that would lead the service to what is near it; `{port}` is that of a listener there."""

LITERAL = """
http://127.0.0.1:{port}/
http://127.1:{port}/
http://127.0.1:{port}/
http://0:{port}/
http://0.0.0.0:{port}/
http://2130706433:{port}/
http://017700000001:{port}/
http://0x7f000001:{port}/
http://0x7f.1:{port}/
http://0x7f.0x0.0x0.0x1:{port}/
http://0177.0.0.1:{port}/
http://0177.0.0.0x1:{port}/
http://00000177.1:{port}/
http://127.0.0.1.:{port}/
http://127.255.255.254:{port}/
http://[::1]:{port}/
http://[::]:{port}/
http://[0:0:0:0:0:0:0:1]:{port}/
http://[::127.0.0.1]:{port}/
http://[::ffff:127.0.0.1]:{port}/
http://[::ffff:7f00:1]:{port}/
http://[::ffff:0:127.0.0.1]:{port}/
http://[0000:0000:0000:0000:0000:ffff:7f00:0001]:{port}/
http://[::ffff:10.0.0.1]:{port}/
http://[::ffff:169.254.169.254]/latest/meta-data/
http://[64:ff9b::127.0.0.1]:{port}/
http://[64:ff9b::a00:1]:{port}/
http://[64:ff9b::a9fe:a9fe]/
http://[64:ff9b:1::7f00:1]:{port}/
http://[2002:7f00:1::]:{port}/
http://[2002:a00:1::1]:{port}/
http://[2001:0:4136:e378:8000:63bf:80ff:fffe]:{port}/
http://[2001:db8::1]:{port}/
http://[3fff::1]:{port}/
http://[fe80::1]:{port}/
http://[fe80::1%25lo]:{port}/
http://[fe80::1%lo]:{port}/
http://[::1%25lo]:{port}/
http://[fec0::1]:{port}/
http://[fc00::1]:{port}/
http://[fd00:ec2::254]/latest/meta-data/
http://[ff02::1]:{port}/
http://[100::1]:{port}/
http://169.254.169.254/latest/meta-data/
http://169.254.170.2/v2/credentials
http://2852039166/
http://0xa9fea9fe/
http://0251.0376.0251.0376/
http://100.100.100.200/latest/meta-data/
http://168.63.129.16/machine
http://192.0.0.192/opc/v1/instance/
http://192.88.99.1/
http://10.0.0.1:{port}/
http://172.16.0.1:{port}/
http://192.168.0.1:{port}/
http://100.64.0.1:{port}/
http://198.18.0.1:{port}/
http://224.0.0.1:{port}/
http://240.0.0.1:{port}/
http://255.255.255.255:{port}/
http://\u2460\u2461\u2466.0.0.1:{port}/
http://127\u30020\u30020\u30021:{port}/
http://\uff11\uff12\uff17.\uff10.\uff10.\uff11:{port}/
http://\u0661\u0662\u0667.0.0.1:{port}/
http://crm.example.com@127.0.0.1:{port}/
http://crm.example.com:443@127.0.0.1:{port}/
http://crm.example.com%40127.0.0.1:{port}/
http://127.0.0.1:{port}\\@crm.example.com/
http://crm.example.com\\@127.0.0.1:{port}/
http://127.0.0.1:{port}#@crm.example.com/
http://127.0.0.1:{port}?@crm.example.com/
http://@127.0.0.1:{port}/
http://127.0.0.1%00.crm.example.com:{port}/
http://127.0.0.1%2ecrm.example.com:{port}/
http://crm\t.example.com:{port}/
http:/\\127.0.0.1:{port}/
http:127.0.0.1:{port}/
http:///127.0.0.1:{port}/
//127.0.0.1:{port}/
file:///etc/passwd
ftp://127.0.0.1:{port}/
gopher://127.0.0.1:{port}/_x
unix:///var/run/docker.sock
http+unix://%2Fvar%2Frun%2Fdocker.sock/
dict://127.0.0.1:{port}/
ws://127.0.0.1:{port}/
""".strip("\n").split("\n")
"""Those that need no name."""

NAMED: dict[str, tuple[str, ...]] = {
    "http://localhost:{port}/": ("127.0.0.1", "::1"),
    "http://LOCALHOST:{port}/": ("127.0.0.1",),
    "http://localhost.:{port}/": ("127.0.0.1",),
    "http://x.localhost:{port}/": ("127.0.0.1",),
    "http://localhost.localdomain:{port}/": ("127.0.0.1",),
    "http://ip6-localhost:{port}/": ("::1",),
    "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54:{port}/": ("127.0.0.1",),
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:{port}/": ("127.0.0.1",),
    "http://metadata/computeMetadata/v1/": ("169.254.169.254",),
    "http://metadata.google.internal/computeMetadata/v1/": ("169.254.169.254",),
    "http://instance-data/latest/meta-data/": ("169.254.169.254",),
    "http://kubernetes.default.svc/": ("10.96.0.1",),
    "http://127.0.0.1.nip.io:{port}/": ("127.0.0.1",),
    "http://10-0-0-1.sslip.io:{port}/": ("10.0.0.1",),
    "http://localtest.me:{port}/": ("127.0.0.1",),
    "http://private.example.com:{port}/": ("10.1.2.3",),
    "http://private.example.com.:{port}/": ("192.168.1.1",),
    "http://mixed.example.com:{port}/": ("93.184.215.14", "127.0.0.1"),
    "http://mixed-the-other-way.example.com:{port}/": ("127.0.0.1", "93.184.215.14"),
    "http://mixed-families.example.com:{port}/": ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:127.0.0.1"),
    "http://last-of-many.example.com:{port}/": (*[f"93.184.215.{last}" for last in range(20)], "127.0.0.1"),
    "http://link.example.com:{port}/": ("fe80::1%1",),
    "http://six-to-four.example.com:{port}/": ("2002:7f00:1::",),
    "http://nat64.example.com:{port}/": ("64:ff9b::7f00:1",),
    "http://unspecified.example.com:{port}/": ("0.0.0.0",),
    "http://unspecified6.example.com:{port}/": ("::",),
}
"""Names, and what they are said to stand for."""

HOSTILE = [*LITERAL, *NAMED]
