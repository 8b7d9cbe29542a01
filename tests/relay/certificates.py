"""Certificates made on the spot by the openssl program: no file in the tree expires, and no key lies about."""
import ipaddress
import os
import subprocess

from harness import program

KINDS = {"ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["-newkey", "rsa:2048"]}


def alternative(name):
    """`name` as a subjectAltName: a DNS name, or an address."""
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def make(folder, name, names=("mx.relay.test",), kind="ecdsa", issuer=None, authority=False):
    """Writes NAME.pem and NAME.key into `folder`; `issuer`: the name of one made before with authority=True."""
    command = [program("openssl"), "req", "-x509", *KINDS[kind], "-nodes", "-days", "30", "-subj", f"/CN={names[0]}",
               "-keyout", os.path.join(folder, f"{name}.key"), "-out", os.path.join(folder, f"{name}.pem")]
    if authority:
        command += ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    else:
        command += ["-addext", "subjectAltName=" + ",".join(alternative(each) for each in names),
                    "-addext", "basicConstraints=critical,CA:FALSE"]
    if issuer:
        command += ["-CA", os.path.join(folder, f"{issuer}.pem"), "-CAkey", os.path.join(folder, f"{issuer}.key")]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        if issuer:
            return make_by_hand(folder, name, names, kind, issuer)
        raise AssertionError(done.stderr.decode())
    os.chmod(os.path.join(folder, f"{name}.key"), 0o600)
    return name


def make_by_hand(folder, name, names, kind, issuer):
    """The same for an openssl whose `req` takes no -CA (before 3.0)."""
    path = os.path.join(folder, name)
    authority = os.path.join(folder, issuer)
    subprocess.run([program("openssl"), "req", *KINDS[kind], "-nodes", "-subj", f"/CN={names[0]}", "-keyout", f"{path}.key",
                    "-out", f"{path}.csr"], capture_output=True, check=True)
    subprocess.run([program("openssl"), "x509", "-req", "-in", f"{path}.csr", "-CA", f"{authority}.pem", "-CAkey",
                    f"{authority}.key", "-CAcreateserial", "-days", "30", "-out", f"{path}.pem"], capture_output=True,
                   check=True)
    os.chmod(f"{path}.key", 0o600)
    return name
