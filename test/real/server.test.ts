/** The server between third-party mail clients and smtpds. */

import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { assertInMailbox, eximIn } from '../support/exim.ts';
import { until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { type Outcome, run } from '../support/real.ts';
import {
  assertContent,
  assertDelivered,
  BODY,
  type MailServer,
  makeFolder,
  queueOf,
  RECIPIENT,
  SENDER,
  SERVER_NAME,
  SUBJECT,
} from '../support/real-chain.ts';
import { CLIENTS } from '../support/real-clients.ts';
import { type RunningServer, startServer } from '../support/server.ts';

const certificates = makeCertificates();
const pair = certificates.selfSigned(SERVER_NAME);
const rsa = certificates.selfSigned(SERVER_NAME, ['rsa:2048']);

after(() => certificates.remove());

const isRoot = process.getuid?.() === 0;

/** An smtpd, and the location of its mail. */
interface Smtpd {
  readonly name: string;
  readonly skip: string | false;
  command(folder: string): readonly string[];
  assertDelivered(server: MailServer): Promise<void> | void;
}

const SMTPDS: readonly Smtpd[] = [
  {
    name: 'mailfront',
    skip: missing('mailfront'),
    command: () => ['mailfront', 'smtp', 'queuedir', 'accept'],
    assertDelivered,
  },
  {
    name: 'smtpd-maildir',
    skip: false,
    command: (folder) => [ours('smtpd-maildir'), join(folder, 'Maildir')],
    assertDelivered: ({ folder }) => {
      const [name = '', ...others] = readdirSync(join(folder, 'Maildir/new'));
      assert.deepEqual(others, []);
      const mail = readFileSync(join(folder, 'Maildir/new', name), 'latin1');
      assert.match(mail, /^ {2}\(\[127\.0\.0\.1\]\)$/m);
      assertContent(mail);
    },
  },
  {
    name: 'exim4 -bs',
    skip: isRoot ? missing('exim4') : 'exim takes another configuration from root alone',
    command: eximIn,
    assertDelivered: ({ folder }) => assertInMailbox(folder),
  },
];

async function listen(
  t: TestContext,
  smtpd: Smtpd,
  options: readonly string[],
): Promise<MailServer & RunningServer> {
  const folder = makeFolder(t);
  for (const name of ['queue', 'queue/tmp', 'queue/new']) {
    mkdirSync(join(folder, name));
    chmodSync(join(folder, name), 0o777);
  }
  const environment = {
    CERTFILE: pair.certFile,
    KEYFILE: pair.keyFile,
    CERTFILE2: rsa.certFile,
    KEYFILE2: rsa.keyFile,
    QUEUEDIR: join(folder, 'queue'),
  };
  const server = await startServer(['-v2', ...options], smtpd.command(folder), { environment });
  t.after(server.close);
  return { ...server, pair, folder };
}

/** The log lines of the only session. */
async function assertSession(server: MailServer, verdict: string, handshakes: number): Promise<void> {
  await until('the session has ended', () => server.stderr().includes('event=end'));
  assert.match(server.stderr(), new RegExp(`event=end .*verdict=${verdict} smtpd=\\S+ status=0 `));
  assert.equal((server.stderr().match(/event=tls /g) ?? []).length, handshakes, server.stderr());
}

for (const smtpd of SMTPDS) {
  describe(`${smtpd.name} behind the server`, { concurrency: 2, timeout: 120_000 }, () => {
    for (const { name, programs, secure, plain } of CLIENTS) {
      const skip = smtpd.skip || missing(...programs);
      for (const options of smtpd.name === 'mailfront' ? [[], ['--require-tls', '--fresh']] : [[]]) {
        const how = ['over TLS', ...options].join(' ');
        it(`accepts a message from ${name} ${how}`, { skip }, async (t) => {
          const server = await listen(t, smtpd, options);
          const { status, stderr } = await secure(server);
          assert.equal(status, 0, `${stderr}${server.stderr()}`);
          await smtpd.assertDelivered(server);
          await assertSession(server, 'tls', 1);
        });
      }

      if (plain === undefined) continue;
      it(`accepts a message from ${name} in cleartext`, { skip }, async (t) => {
        const server = await listen(t, smtpd, []);
        const { status, stderr } = await plain(server);
        assert.equal(status, 0, `${stderr}${server.stderr()}`);
        await smtpd.assertDelivered(server);
        await assertSession(server, 'plaintext', 0);
      });
    }
  });
}

const MESSAGE = `From: ${SENDER}\nTo: ${RECIPIENT}\nSubject: ${SUBJECT}\n\n${BODY}\n`;

const SMTPLIB = `
import smtplib, ssl, sys
port, name, sender, recipient, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.check_hostname = False
with smtplib.SMTP_SSL('127.0.0.1', int(port), context=context) as client:
    client.sendmail(sender, [recipient], sys.stdin.read())
`;

/** Clients with implicit TLS. */
const IMPLICIT: readonly { name: string; program: string; send(server: MailServer): Promise<Outcome> }[] = [
  {
    name: 'swaks',
    program: 'swaks',
    send: ({ port }) => {
      const envelope = ['--from', SENDER, '--to', RECIPIENT];
      const body = ['--header', `Subject: ${SUBJECT}`, '--body', BODY];
      return run(['swaks', '--server', `127.0.0.1:${port}`, '--tlsc', ...envelope, ...body]);
    },
  },
  {
    name: 'curl',
    program: 'curl',
    send: ({ port }) => {
      const where = [`smtps://${SERVER_NAME}:${port}`, '--resolve', `${SERVER_NAME}:${port}:127.0.0.1`];
      const envelope = ['--mail-from', SENDER, '--mail-rcpt', RECIPIENT, '--upload-file', '-'];
      return run(['curl', '-sS', '--cacert', pair.certFile, ...where, ...envelope], {
        input: MESSAGE.replaceAll('\n', '\r\n'),
      });
    },
  },
  {
    name: 'msmtp',
    program: 'msmtp',
    send: ({ port }) => {
      const where = ['--host=127.0.0.1', `--port=${port}`, `--from=${SENDER}`];
      const trust = [`--tls-trust-file=${pair.certFile}`, `--tls-host-override=${SERVER_NAME}`];
      return run(['msmtp', ...where, '--tls=on', '--tls-starttls=off', ...trust, RECIPIENT], {
        input: MESSAGE,
      });
    },
  },
  {
    name: 'smtplib',
    program: '/usr/bin/python3',
    send: ({ port }) => {
      const words = [String(port), SERVER_NAME, SENDER, RECIPIENT, pair.certFile];
      return run(['/usr/bin/python3', '-c', SMTPLIB, ...words], { input: MESSAGE });
    },
  },
];

describe('the server with implicit TLS', { concurrency: 2, timeout: 60_000 }, () => {
  for (const { name, program, send } of IMPLICIT) {
    it(`accepts a message from ${name}`, { skip: missing('mailfront', program) }, async (t) => {
      const [mailfront] = SMTPDS;
      assert.ok(mailfront !== undefined);
      const server = await listen(t, mailfront, ['--implicit-tls']);
      const { status, stdout, stderr } = await send(server);
      assert.equal(status, 0, `${stdout}${stderr}${server.stderr()}`);
      assertDelivered(server);
      await assertSession(server, 'tls', 1);
    });
  }

  it('accepts none from a client that starts in cleartext', {
    skip: missing('mailfront', 'curl'),
  }, async (t) => {
    const [mailfront] = SMTPDS;
    assert.ok(mailfront !== undefined);
    const server = await listen(t, mailfront, ['--implicit-tls']);
    const [curl] = CLIENTS.filter(({ name }) => name === 'curl');
    assert.notEqual((await curl?.plain?.(server))?.status, 0);
    assert.deepEqual(readdirSync(queueOf(server)), []);
  });
});

describe('sslscan', { concurrency: 2, timeout: 120_000 }, () => {
  for (const [how, options, starttls] of [
    ['behind STARTTLS', [], ['--starttls-smtp']],
    ['from the first byte on', ['--implicit-tls'], []],
  ] as const) {
    it(`finds TLS 1.2 and 1.3 ${how}, nothing older, and no weak cipher`, {
      skip: missing('sslscan', 'mailfront'),
    }, async (t) => {
      const [mailfront] = SMTPDS;
      assert.ok(mailfront !== undefined);
      const server = await listen(t, mailfront, options);
      const words = [...starttls, '--no-colour', '--no-groups', '--xml=-', `127.0.0.1:${server.port}`];
      const { stdout } = await run(['sslscan', ...words]);
      const protocols = stdout.matchAll(/<protocol type="(\w+)" version="([\d.]+)" enabled="1"/g);
      assert.deepEqual(
        [...protocols].map(([, type, version]) => `${type} ${version}`),
        ['tls 1.2', 'tls 1.3'],
        stdout,
      );
      const ciphers = [...stdout.matchAll(/<cipher .*? sslversion="(.*?)" .*? cipher="(.*?)"/g)];
      const suites = ['AES128-GCM-SHA256', 'AES256-GCM-SHA384', 'CHACHA20-POLY1305'];
      assert.deepEqual(ciphers.map(([, version, cipher]) => `${version} ${cipher}`).sort(), [
        ...suites.map((suite) => `TLSv1.2 ECDHE-ECDSA-${suite}`),
        ...suites.map((suite) => `TLSv1.2 ECDHE-RSA-${suite}`),
        'TLSv1.3 TLS_AES_128_GCM_SHA256',
        'TLSv1.3 TLS_AES_256_GCM_SHA384',
        'TLSv1.3 TLS_CHACHA20_POLY1305_SHA256',
      ]);
      assert.ok(!stdout.includes('vulnerable="1"'));
      assert.ok(!/<renegotiation supported="1" secure="0"/.test(stdout));
    });
  }
});
