/** Each message of these programs in docs/troubleshooting.md, produced by its cause. */

import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { makeCertificates, type Pair } from '../support/certificate.ts';
import { until } from '../support/processes.ts';
import { missing, ours, ROOT } from '../support/programs.ts';
import { run, tcpserver } from '../support/real.ts';
import { startServer } from '../support/server.ts';
import {
  type Case,
  ends,
  leavesAfter,
  type Produce,
  refuses,
  SMTPD,
  secondOf,
  sends,
  sendsAtOnce,
  serves,
  startTls,
} from '../support/symptoms.ts';
import { closedPort, listenTcp } from '../support/tcp.ts';

const PAGE = readFileSync(join(ROOT, 'docs/troubleshooting.md'), 'utf8');
const needsRoot = process.getuid?.() === 0 ? false : 'it starts as root';
const SERVER = ours('smtpd-starttls-server');
const NOBODY = '65534';

const certificates = makeCertificates();
const pair = certificates.selfSigned('localhost');
const other = certificates.selfSigned('localhost');
const environment: NodeJS.ProcessEnv = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };
const of = ({ certFile, keyFile }: Pair): NodeJS.ProcessEnv => ({ CERTFILE: certFile, KEYFILE: keyFile });
const folder = mkdtempSync(join(tmpdir(), 'troubleshooting-'));
before(() => chmodSync(folder, 0o755));
after(() => {
  rmSync(folder, { recursive: true });
  certificates.remove();
});

function file(name: string, content: string, mode = 0o600): string {
  const path = join(folder, name);
  writeFileSync(path, content, { mode });
  return path;
}

/** Mail for a server by URL: what the client is answered, and what the server logs. */
const passesOn = (url: () => string | Promise<string>, ...options: string[]): Produce => {
  return async (t) => {
    const to = ['--no-starttls', ...options, '--to', await url()];
    return serves(to, sends('EHLO client.example', 'QUIT'), [])(t);
  };
};

const starts: Case[] = [
  {
    message: 'env: ...node...: No such file or directory',
    produce: ends(['/usr/bin/env', '-i', 'PATH=/nonexistent', SERVER, '--version']),
  },
  {
    message: 'Assertion failed',
    skip: missing('chpst'),
    produce: ends(['sh', '-c', `chpst -m 4000000000 ${SERVER} --version`]),
  },
  {
    message: 'unable to read KEYFILE ...: EACCES',
    skip: needsRoot || missing('setpriv'),
    produce: (t) => {
      const cert = join(folder, 'cert.pem');
      const key = join(folder, 'key.pem');
      copyFileSync(pair.certFile, cert);
      copyFileSync(pair.keyFile, key);
      chmodSync(cert, 0o644);
      const as = ['setpriv', `--reuid=${NOBODY}`, '--clear-groups'];
      return ends([...as, SERVER, '127.0.0.1', '0', 'cat'], { CERTFILE: cert, KEYFILE: key })(t);
    },
  },
  { message: 'unable to set up TLS: CERTFILE is not set', produce: refuses([], { CERTFILE: undefined }) },
  { message: 'KEYFILE ... is not the key of CERTFILE ...', produce: refuses([], { KEYFILE: other.keyFile }) },
  {
    message: 'contains no readable private key: it is encrypted',
    produce: async (t) => {
      const encrypted = join(folder, 'encrypted.pem');
      const { status } = await run([
        'openssl',
        'pkcs8',
        '-topk8',
        '-in',
        pair.keyFile,
        '-out',
        encrypted,
        '-passout',
        'pass:secret',
      ]);
      assert.equal(status, 0);
      return refuses([], { KEYFILE: encrypted })(t);
    },
  },
  { message: 'contains no readable certificate: ...', produce: refuses([], { CERTFILE: pair.keyFile }) },
  {
    message: 'no variable KEYFILE:name is set',
    produce: refuses(['-k', '2'], { 'CERTFILE:mx.example.org': pair.certFile }),
  },
  {
    message: 'unable to listen on ... port ...: EADDRINUSE',
    produce: async (t) => {
      const port = await listenTcp(t, () => {});
      return ends([SERVER, '127.0.0.1', String(port), 'cat'])(t);
    },
  },
  {
    message: 'unable to listen on ... port ...: EACCES',
    skip: needsRoot || missing('setpriv'),
    produce: ends([
      ...['setpriv', `--reuid=${NOBODY}`, '--clear-groups', '--bounding-set=-all'],
      ...[SERVER, '--no-starttls', '127.0.0.1', '25', 'cat'],
    ]),
  },
  {
    message: 'unable to listen on ... port ...: EADDRNOTAVAIL',
    produce: ends([SERVER, '192.0.2.1', '2525', 'cat']),
  },
  {
    message: 'unable to change user and group: EPERM',
    skip: needsRoot || missing('setpriv'),
    produce: ends([
      ...['setpriv', `--reuid=${NOBODY}`, '--clear-groups', SERVER],
      ...['-u', '8', '-g', '8', '--no-starttls', '127.0.0.1', '0', 'cat'],
    ]),
  },
  { message: '--uid takes a whole number', produce: refuses(['-u', 'qmaild']) },
  { message: 'UID is not set', produce: refuses(['-U']) },
  { message: "Unknown option '-x'", produce: refuses(['-x', 'rules.cdb']) },
  {
    message: 'descriptor 0 is not a listening socket',
    produce: ends(['sh', '-c', `exec ${SERVER} - cat < /dev/null`]),
  },
  {
    message: 'SSLCTLFD is not set; is there a UCSPI-TLS server above?',
    produce: ends([ours('smtpd-starttls-proxy-io'), 'cat']),
  },
  {
    message: 'unable to use descriptors 0 and 1: not a network connection',
    produce: ends(['sh', '-c', `exec ${ours('smtpd-starttls-proxy')} cat < /dev/null`]),
  },
  {
    message: '-bs without -oMa treats every client as a local user, an open relay',
    produce: refuses([], {}, ['exim4', '-bs']),
  },
  { message: 'cannot run ...: ENOENT', produce: refuses([], {}, ['qmail-smtpd-that-does-not-exist']) },
  {
    message: 'the Node inspector is open at ...',
    produce: refuses([], { NODE_OPTIONS: '--inspect=127.0.0.1:0' }),
  },
  {
    message: 'unable to start: descriptor limit too low',
    skip: missing('prlimit'),
    produce: async (t) => {
      const tooLow = await ends(['prlimit', '--nofile=100:100', SERVER, '127.0.0.1', '0', 'cat'])(t);
      const server = await startServer([], SMTPD, { environment, under: ['prlimit', '--nofile=1024:1024'] });
      t.after(server.close);
      return () => tooLow() + server.stderr();
    },
  },
  {
    message: 'unable to notify readiness on descriptor ...: EBADF',
    produce: refuses(['--notify-fd', '7']),
  },
  {
    message: 'unable to run systemd-notify: ...',
    skip: missing('systemd-notify'),
    produce: serves([], sends('QUIT'), SMTPD, { NOTIFY_SOCKET: '/nonexistent/socket' }),
  },
];

const refusals: Case[] = [
  {
    message: 'smtpd exited before its greeting: exit status 1',
    produce: serves([], sends('QUIT'), ['false']),
  },
  {
    message: 'smtpd exited before its greeting: killed by SIGSEGV',
    skip: missing('chpst'),
    produce: serves([], sends('QUIT'), ['chpst', '-m', '4096', 'true']),
  },
  {
    message: 'smtpd sent an invalid SMTP reply, closing',
    produce: serves([], sends('QUIT'), ['echo', 'sh: qmail-smtpd: not found']),
  },
  {
    message: 'cannot reach ...: ECONNREFUSED',
    produce: async (t) => serves(['--to', `127.0.0.1:${await closedPort()}`], sends('QUIT'), [])(t),
  },
  {
    message: '421 4.3.0 Mail server not configured correctly',
    skip: missing('tcpserver'),
    produce: async (t) => {
      const { port } = await tcpserver(t, [ours('smtpd-starttls-proxy'), 'cat'], {
        ...environment,
        KEYFILE: other.keyFile,
      });
      const received = await sends()(port);
      return () => received;
    },
  },
  {
    message: '421 4.7.0 Too many connections from your address',
    produce: (t) => serves(['-C', '1'], secondOf(t, sends()))(t),
  },
  {
    message: '421 4.3.2 Mail server too busy',
    // Without STARTTLS, -t does not end the session of the first client, which would free the slot.
    produce: (t) => serves(['--no-starttls', '-c', '1', '-b', '1', '-t', '1'], secondOf(t, sends()))(t),
  },
  { message: 'why=untrusted', produce: serves(['--proxy-protocol', '192.0.2.1'], sends()) },
  {
    message: 'not a PROXY protocol header',
    produce: serves(['--proxy-protocol', '127.0.0.1'], sendsAtOnce('EHLO client.example\r\n')),
  },
  { message: '421 4.4.2 Idle timeout', produce: serves(['-t', '1'], sends(), ['sleep', '60']) },
  {
    message: '554 5.5.1 Wait for the greeting',
    produce: serves(['--greet-delay', '60'], sendsAtOnce('EHLO bot.example\r\n')),
  },
  {
    message: '421 4.7.0 Too many refused commands',
    produce: serves(['--error-limit', '2'], sends('EHLO client.example', 'STARTTLS now', 'STARTTLS now')),
  },
  {
    message: 'unable to learn how smtpd introduces itself',
    produce: serves(['--on-demand'], sends(), ['false']),
  },
  {
    message: 'unable to create the Maildir ...: EACCES',
    skip: needsRoot,
    produce: (t) => {
      const smtpd = [ours('smtpd-maildir'), join(folder, 'Maildir')];
      return serves(['-u', NOBODY, '-g', NOBODY], sends(), smtpd)(t);
    },
  },
  {
    message: '530 5.7.0 Send STARTTLS first',
    produce: serves(['-r'], sends('EHLO client.example', 'MAIL FROM:<me@example.org>', 'QUIT')),
  },
  {
    message: '538 5.7.11 Encryption required',
    produce: serves([], sends('EHLO client.example', 'AUTH PLAIN AAAA', 'QUIT')),
  },
  {
    message: '503 5.5.1 Wait for the reply to STARTTLS',
    produce: serves([], sends('EHLO client.example', 'STARTTLS\r\nNOOP', 'QUIT')),
  },
  { message: '421 4.7.0 SMTP only', produce: serves([], sends('GET / HTTP/1.1')) },
];

const handshakes: Case[] = [
  {
    message: 'ERR_SSL_WRONG_VERSION_NUMBER',
    produce: serves(['--implicit-tls'], sendsAtOnce('EHLO client.example\r\n')),
  },
  {
    message: 'ERR_SSL_HTTP_REQUEST',
    produce: serves(['--implicit-tls'], sendsAtOnce('GET / HTTP/1.1\r\n\r\n')),
  },
  {
    message: 'ERR_SSL_UNSUPPORTED_PROTOCOL',
    produce: serves([], startTls('-tls1_1', '-cipher', 'ALL:@SECLEVEL=0')),
  },
  {
    message: 'ERR_SSL_NO_SHARED_CIPHER',
    produce: serves([], startTls('-tls1_2', '-sigalgs', 'RSA+SHA256')),
  },
  {
    message: 'ERR_SSL_TLSV1_ALERT_UNKNOWN_CA',
    produce: serves([], startTls('-verify_return_error')),
  },
  {
    message: 'no certificate for ...',
    produce: serves(['-k', '2'], startTls('-servername', 'other.example.org'), SMTPD, {
      'CERTFILE:mx.example.org': pair.certFile,
      'KEYFILE:mx.example.org': pair.keyFile,
    }),
  },
  {
    message: 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE',
    produce: serves(['-y'], startTls(), SMTPD, { CAFILE: pair.certFile }),
  },
  {
    message: 'ERR_SSL_NO_APPLICATION_PROTOCOL',
    produce: serves(['--alpn', 'smtp'], startTls('-alpn', 'http/1.1')),
  },
  {
    message: 'the connection ended before the ClientHello',
    produce: serves([], leavesAfter('EHLO client.example', 'STARTTLS')),
  },
  {
    message: 'keeping the previous keys and certificates',
    produce: async (t) => {
      const key = join(folder, 'renewed.pem');
      copyFileSync(pair.keyFile, key);
      const server = await startServer([], SMTPD, { environment: { ...environment, KEYFILE: key } });
      t.after(server.close);
      copyFileSync(other.keyFile, key);
      server.signal('SIGHUP');
      return server.stderr;
    },
  },
  {
    message: 'smtpd exited mid-session: exit status 0',
    // An smtpd that exits at the end of its input, as qmail-smtpd and mailfront do.
    produce: serves([], startTls(), ['sh', '-c', `${SMTPD[2]}\nexit 0`]),
  },
];

const warnings: Case[] = [
  {
    message: 'the certificate expires within 14 days, at ...',
    produce: async (t) => {
      const soon = certificates.expiring(pair, 'localhost');
      const late = certificates.expired(pair, 'localhost');
      const outputs = await Promise.all(
        [soon, late].map((one) => serves([], sends('QUIT'), SMTPD, of(one))(t)),
      );
      return () => outputs.map((output) => output()).join('');
    },
  },
  {
    message: 'the certificate does not have the name ...',
    produce: serves(['-l', 'mx.example.org'], sends('QUIT')),
  },
  {
    message: 'the certificate of its issuer, ..., is not in the file',
    produce: (t) => serves([], sends('QUIT'), SMTPD, of(certificates.signedBy(other, 'localhost')))(t),
  },
  {
    message: 'has an RSA key of ... bits, fewer than 2048',
    produce: (t) =>
      serves([], sends('QUIT'), SMTPD, of(certificates.selfSigned('localhost', ['rsa:1536'])))(t),
  },
];

const relayed: Case[] = [
  {
    message: '451 4.4.1 ...: cannot connect: ECONNREFUSED',
    produce: passesOn(async () => `tls://127.0.0.1:${await closedPort()}`),
  },
  {
    message: '451 4.4.4 ...: cannot connect: ENOTFOUND',
    produce: passesOn(() => 'tls://mail.invalid'),
  },
  {
    message: '451 4.7.4 ...: STARTTLS is not offered',
    produce: async (t) => {
      const server = await startServer(['--no-starttls'], SMTPD, { environment });
      t.after(server.close);
      return passesOn(() => `tls://localhost:${server.port}`)(t);
    },
  },
  {
    message: '451 4.7.5 ...: the server is not verified: ...',
    produce: async (t) => {
      const server = await startServer([], SMTPD, { environment });
      t.after(server.close);
      return passesOn(() => `tls://localhost:${server.port}`)(t);
    },
  },
  {
    message: 'its mode must be 600 or stricter, not 644',
    produce: (t) => {
      const credentials = file('credentials', 'mail.example.org alice secret\n', 0o644);
      const to = ['--no-starttls', '--credentials', credentials, '--to', 'tls://mail.example.org'];
      return refuses(to, {}, [])(t);
    },
  },
  {
    message: '451 4.4.1 ...: ssh failed: exit status 255',
    skip: missing('ssh'),
    produce: passesOn(async () => `ssh://127.0.0.1:${await closedPort()}`),
  },
];

/** Messages and texts of other programs, and of options. */
const NOT_OURS = [
  'XXXXXXXA',
  '451 qq trouble creating files in queue (#4.3.0)',
  'start operation timed out',
  'Failed to create listening socket',
  'status=203/EXEC',
  'importas: fatal: unable to exec importas',
];
const NOT_MESSAGES = ['-h', '-p', 'no-room'];

/** The messages in the first column, row by row. */
const rows = PAGE.split('\n')
  .filter((line) => line.startsWith('| ') && !/^\| (?:---|symptom)/.test(line))
  .map((line) => [...(line.split(' | ')[0] ?? '').matchAll(/`([^`]*)`/g)].map(([, text = '']) => text))
  .map((texts) => texts.filter((text) => !NOT_MESSAGES.includes(text) && !NOT_OURS.includes(text)))
  .filter((texts) => texts.length > 0);

/** A message as a pattern: three dots stand for anything within its line. */
function pattern(message: string): RegExp {
  return new RegExp(message.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&').replaceAll('\\.\\.\\.', '.*'));
}

const cases = [...starts, ...refusals, ...handshakes, ...warnings, ...relayed];

test('each message of the page has a test, and the other way round', () => {
  const without = rows.filter((texts) => !cases.some(({ message }) => texts.includes(message)));
  assert.deepEqual(without, []);
  const unknown = cases.filter(({ message }) => rows.filter((texts) => texts.includes(message)).length !== 1);
  assert.deepEqual(
    unknown.map(({ message }) => message),
    [],
  );
});

describe('the message is that of the page:', { concurrency: 2 }, () => {
  for (const { message, skip = false, produce } of cases) {
    test(message, { skip }, async (t) => {
      const output = await produce(t);
      const texts = rows.find((row) => row.includes(message)) ?? [];
      for (const text of texts) {
        await until(text, () => pattern(text).test(output())).catch(() => {
          assert.match(output(), pattern(text));
        });
      }
    });
  }
});
