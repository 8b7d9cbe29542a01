// BoringSSL's headers, and nothing else's: another openssl/ may lie in the way. Only the room `tls` includes this.
#pragma once

#include <openssl/base.h>

#ifndef OPENSSL_IS_BORINGSSL
#error \
    "this is not BoringSSL: install Debian's android-libboringssl-dev, or name one by: meson setup -Dboringssl=PREFIX"
#endif

#include <openssl/bio.h>
#include <openssl/bytestring.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/mem.h>
#include <openssl/pem.h>
#include <openssl/pool.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
