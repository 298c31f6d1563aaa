import { execFileSync } from 'node:child_process';

/** The SHA-256 digest of the public key in a certificate, made with openssl as the man pages describe it. */
export function sha256OfKey(certFile: string): string {
  const command =
    'openssl x509 -in "$1" -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -r';
  return execFileSync('sh', ['-c', command, 'sh', certFile], { encoding: 'latin1' }).slice(0, 64);
}
