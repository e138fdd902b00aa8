"""Self-signed TLS certificates for this machine's names and addresses."""

import ipaddress
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from diffusion_local.errors import Conflict, InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.system.network import addresses

DAYS = 825  # the maximum that Apple's systems accept


def self_signed(certificate: Path, key: Path, more_names: list[str], replace: bool = False) -> tuple[list[str], str]:
    """Write a certificate and its key (mode 0600); returns (names in it, SHA-256 fingerprint).

    Raises Conflict if they exist already, InvalidParams if a file cannot be written.
    """
    for path in (certificate, key):
        if path.exists() and not replace:
            raise Conflict(message("tls_replace", path=path))
    own = socket.gethostname()
    names = dict.fromkeys(["localhost", own, f"{own.split('.')[0]}.local", *more_names])
    places = dict.fromkeys(["127.0.0.1", "::1", *addresses()])
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"diffusion-local on {own}"[:64])])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([general_name(each) for each in (*names, *places)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    private = secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        write(key, private, 0o600)
        write(certificate, signed.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise InvalidParams("tls", message("cannot_be_written", error=error)) from None
    return [*names, *places], signed.fingerprint(hashes.SHA256()).hex(":")


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise InvalidParams("name", message("tls_name", got=echo(name))) from None


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a file that other users cannot read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
