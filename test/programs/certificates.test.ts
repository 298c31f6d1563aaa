/** The commands of docs/certificates.md that need no authority and no DNS. */

import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { makeCertificates, type Pair } from '../support/certificate.ts';
import { missing, ROOT } from '../support/programs.ts';
import { type Outcome, run } from '../support/real.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { SMTPD } from '../support/symptoms.ts';

const PAGE = readFileSync(join(ROOT, 'docs/certificates.md'), 'utf8');
const NAME = 'mx.example.org';
const certificates = makeCertificates();
const folder = mkdtempSync(join(tmpdir(), 'certificates-page-'));
let authority: Pair;
let pair: Pair;
let ports: Readonly<Record<string, RunningServer>>;

before(async () => {
  authority = certificates.selfSigned('authority.example');
  pair = certificates.signedBy(authority, NAME);
  writeFileSync(
    join(folder, 'fullchain.pem'),
    readFileSync(pair.certFile, 'utf8') + readFileSync(authority.certFile, 'utf8'),
  );
  const environment = { CERTFILE: join(folder, 'fullchain.pem'), KEYFILE: pair.keyFile };

  ports = {
    25: await startServer(['--fresh'], SMTPD, { environment }),
    465: await startServer(['--implicit-tls'], SMTPD, { environment }),
  };
});
after(async () => {
  for (const server of Object.values(ports)) await server.close();
  rmSync(folder, { recursive: true });
  certificates.remove();
});

/** The commands of the page that begin with this, in its order. */
function commands(start: string): string[] {
  const lines = PAGE.split('\n').filter((line) => line.startsWith(`    ${start}`));
  assert.notEqual(lines.length, 0, `no command that begins with ${start}`);
  return lines.map((line) => line.trim());
}

/** Runs a command of the page against the servers here, which the authority of this test has signed. */
function follow(command: string): Promise<Outcome> {
  const here = command
    .replace(/mx\.example\.org:(25|465)/, (_, port: string) => `127.0.0.1:${ports[port]?.port}`)
    .replace(' s_client', ` s_client -CAfile ${authority.certFile}`)
    .replace(' verify', ` verify -CAfile ${authority.certFile}`)
    .replace('swaks --server 127.0.0.1', 'swaks --server localhost')
    .replace('--tls-verify', `--tls-verify --tls-ca-path ${authority.certFile}`);
  return run(['sh', '-c', `cd ${folder} && ${here}`]);
}

test('openssl verify, x509 and -checkend', async () => {
  for (const command of [
    ...commands('openssl verify'),
    ...commands('openssl x509 -in fullchain.pem -noout -subject'),
  ]) {
    const { status, stdout, stderr } = await follow(command);
    assert.equal(status, 0, `${command}: ${stderr}`);
    assert.match(stdout, /^fullchain\.pem: OK\n$|DNS:mx\.example\.org.*notAfter=/s);
  }
  const [checkEnd = ''] = commands('openssl x509 -in fullchain.pem -noout -checkend');
  assert.equal((await follow(checkEnd)).status, 0);
  assert.equal((await follow(checkEnd.replace('1209600', '4000000'))).status, 1);
});

test('the digest of the TLSA record is that of the public key, and s_client finds it', async () => {
  const [command = ''] = commands('openssl x509 -in fullchain.pem -noout -pubkey');
  const [digest = ''] = (await follow(command)).stdout.split(' ');
  const { publicKey } = new X509Certificate(readFileSync(pair.certFile));
  const expected = createHash('sha256')
    .update(publicKey.export({ type: 'spki', format: 'der' }))
    .digest('hex');
  assert.equal(digest, expected);
  const [dane = ''] = commands('openssl s_client').filter((line) => line.includes('DIGEST'));
  const { stdout, stderr } = await follow(dane.replace('DIGEST', digest));
  assert.match(stdout + stderr, /DANE TLSA 3 1 1 .*matched EE certificate/);
  const other = await follow(dane.replace('DIGEST', '0'.repeat(64)));
  assert.match(other.stdout + other.stderr, /no matching DANE TLSA records/);
});

test('openssl s_client verifies chain and name', async () => {
  for (const command of commands('openssl s_client').filter((line) => !line.includes('DIGEST'))) {
    const { status, stderr } = await follow(command);
    assert.equal(status, 0, stderr);
    assert.match(stderr, /Verification: OK\n.*Verified peername: mx\.example\.org/s);
    const wrong = await follow(command.replace('-verify_hostname mx', '-verify_hostname wrong'));
    assert.notEqual(wrong.status, 0);
  }
});

test('swaks verifies the chain', { skip: missing('swaks') }, async () => {
  const [command = ''] = commands('swaks');
  const { status, stdout } = await follow(command);
  assert.equal(status, 0, stdout);
  assert.match(stdout, /TLS started/);
  const stranger = certificates.selfSigned('stranger.example');
  assert.notEqual((await follow(`${command} --tls-ca-path ${stranger.certFile}`)).status, 0);
});

test('sslscan finds TLS 1.2 and 1.3 only', { skip: missing('sslscan') }, async () => {
  const [command = ''] = commands('sslscan');
  const { stdout } = await follow(command.replace('sslscan', 'sslscan --no-colour --no-groups'));
  const protocols = [...stdout.matchAll(/^(SSLv\d|TLSv[\d.]+)\s+(enabled|disabled)$/gm)].map(
    ([, name, state]) => `${name} ${state}`,
  );
  assert.deepEqual(
    protocols.filter((line) => line.endsWith('enabled')),
    ['TLSv1.2 enabled', 'TLSv1.3 enabled'],
  );
});

test('env passes the variables with a name on to the server', async (t) => {
  const other = certificates.signedBy(authority, 'mail.example.net');
  const block = /env CERTFILE:.*?qmail-smtpd/s.exec(PAGE)?.[0] ?? '';
  const words = block
    .replace('/etc/ssl/mail/net.pem', other.certFile)
    .replace('/etc/ssl/mail/net.key', other.keyFile)
    .split(/[ \\\n]+/);
  const at = words.indexOf('smtpd-starttls-server');
  assert.deepEqual(words.slice(-7), ['-u', '1001', '-g', '1001', '0', '25', 'qmail-smtpd']);
  const server = await startServer(words.slice(at + 1, -7), SMTPD, {
    under: words.slice(0, at),
    environment: { CERTFILE: pair.certFile, KEYFILE: pair.keyFile },
  });
  t.after(server.close);
  for (const name of ['mail.example.net', NAME]) {
    const client = `openssl s_client -starttls smtp -connect 127.0.0.1:${server.port} -servername ${name}`;
    const { stdout } = await run(['sh', '-c', `${client} | openssl x509 -noout -subject`]);
    assert.equal(stdout, `subject=CN = ${name}\n`);
  }
});

test('the deploy hook copies both files of its certificate for a user', {
  skip: process.getuid?.() === 0 ? false : 'it starts as root',
}, async () => {
  const hook = /^ {4}#!\/bin\/sh\n {4}set -e.*?\n\n/ms.exec(PAGE)?.[0] ?? '';
  const to = join(folder, 'mail');
  const from = join(folder, 'live', NAME);
  const other = join(folder, 'live', 'www.example.org');
  for (const [lineage, { certFile, keyFile }] of [
    [from, pair],
    [other, authority],
  ] as const) {
    mkdirSync(lineage, { recursive: true });
    writeFileSync(join(lineage, 'fullchain.pem'), readFileSync(certFile));
    writeFileSync(join(lineage, 'privkey.pem'), readFileSync(keyFile));
  }
  const script = hook
    .replaceAll(/^ {4}/gm, '')
    .replaceAll('/etc/ssl/mail', to)
    .replace('-o qmaild', '-o nobody');
  for (const lineage of [from, other]) {
    const { status, stderr } = await run(['sh', '-c', script], { environment: { RENEWED_LINEAGE: lineage } });
    assert.equal(status, 0, stderr);
  }
  for (const name of ['fullchain.pem', 'privkey.pem']) {
    const { uid, mode } = statSync(join(to, name));
    assert.deepEqual([uid, mode & 0o777], [65534, 0o600]);
    assert.deepEqual(readFileSync(join(to, name)), readFileSync(join(from, name)));
  }
});
