import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A certificate and its key, in files. */
export interface Pair {
  readonly certFile: string;
  readonly keyFile: string;
}

/** Makes certificates in a folder of its own, with the openssl command. */
export interface CertificateMaker {
  readonly folder: string;
  /**
   * A self-signed certificate for a name; P-256 or `key`, as `openssl req -newkey` takes it. Without a name, its subject is
   * empty.
   */
  selfSigned(name: string, key?: readonly string[]): Pair;
  /** A certificate for a name that another one has signed; with a key as above. */
  signedBy(authority: Pair, name: string, key?: readonly string[]): Pair;
  /** The same, not valid since yesterday. */
  expired(authority: Pair, name: string): Pair;
  /** The same, valid for three days. */
  expiring(authority: Pair, name: string): Pair;
  /** Removes the folder. */
  remove(): void;
}

const P256 = ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];

/** Makes a folder for certificates. */
export function makeCertificates(): CertificateMaker {
  const folder = mkdtempSync(join(tmpdir(), 'certificates-'));
  let count = 0;
  function pair(name: string, key: readonly string[], more: readonly string[]): Pair {
    count += 1;
    const certFile = join(folder, `${count}.cert.pem`);
    const keyFile = join(folder, `${count}.key.pem`);
    const subject =
      name === '' ? ['-subj', '/'] : ['-subj', `/CN=${name}`, '-addext', `subjectAltName=${altName(name)}`];
    const files = ['-keyout', keyFile, '-out', certFile];
    const args = ['req', '-x509', '-newkey', ...key, '-nodes', '-days', '30', ...subject, ...files, ...more];
    openssl(...args);
    return { certFile, keyFile };
  }
  function validFor(days: number, authority: Pair, name: string): Pair {
    const { certFile, keyFile } = pair(name, P256, []);
    const request = `${certFile}.csr`;
    const extensions = `${certFile}.ext`;
    writeFileSync(extensions, `subjectAltName=${altName(name)}\n`);
    openssl('x509', '-x509toreq', '-in', certFile, '-signkey', keyFile, '-out', request);
    const signer = ['-CA', authority.certFile, '-CAkey', authority.keyFile, '-extfile', extensions];
    openssl('x509', '-req', '-in', request, ...signer, '-days', String(days), '-out', certFile);
    return { certFile, keyFile };
  }
  return {
    folder,
    selfSigned: (name, key = P256) => pair(name, key, []),
    signedBy: (authority, name, key = P256) =>
      pair(name, key, [
        ...['-CA', authority.certFile, '-CAkey', authority.keyFile],
        ...['-addext', 'basicConstraints=critical,CA:FALSE'],
      ]),
    expired: (authority, name) => validFor(-1, authority, name),
    expiring: (authority, name) => validFor(3, authority, name),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { stdio: 'pipe' });
}

function altName(name: string): string {
  return isIP(name) === 0 ? `DNS:${name}` : `IP:${name}`;
}
