/** Our programs before Postfix, and Postfix as the client of our programs. */

import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { type Dovecot, noDovecot, startDovecot } from '../support/dovecot.ts';
import { eximClientIn } from '../support/exim.ts';
import { noPostfix, type Postfix, startPostfix } from '../support/postfix.ts';
import { until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { type Outcome, run, tcpserver } from '../support/real.ts';
import { assertContent, makeFolder, RECIPIENT, SENDER } from '../support/real-chain.ts';
import { CLIENTS } from '../support/real-clients.ts';
import { startServer } from '../support/server.ts';
import { DEADLINE } from '../support/within.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');
const ENVIRONMENT = { CAFILE: authority.certFile };
const KEYS = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };

const SKIP = noPostfix() || noDovecot() || missing('tcpserver', 'swaks');

function writeCredentials(folder: string, password: string): string {
  const path = join(folder, 'credentials');
  writeFileSync(path, `localhost alice ${password}\n`);
  chmodSync(path, 0o600);
  return path;
}

/** Sends a message of one line with swaks. */
function swaks(port: number, recipients: readonly string[], ...more: string[]): Promise<Outcome> {
  const words = ['--server', `127.0.0.1:${port}`, '--from', SENDER, '--to', recipients.join(',')];
  return run(['swaks', ...words, '--body', 'Hi.', ...more]);
}

/** Postfix that takes mail only in TLS and after AUTH. */
async function startFarPostfix(t: TestContext): Promise<Postfix> {
  const { authSocket } = await startDovecot(t, pair);
  return startPostfix(t, { pair, authSocket });
}

describe('smtp-relay-io before Postfix', { concurrency: 2, timeout: 120_000, skip: SKIP }, () => {
  for (const { name, programs, plain } of CLIENTS) {
    if (plain === undefined) continue;
    it(`passes a message of ${name} on, in TLS and after AUTH`, { skip: missing(...programs) }, async (t) => {
      const folder = makeFolder(t);
      const postfix = await startFarPostfix(t);
      const credentials = writeCredentials(folder, 'wonder land');
      const relay = await tcpserver(
        t,
        [ours('smtp-relay-io'), '--credentials', credentials, `tls://localhost:${postfix.port}`],
        ENVIRONMENT,
      );
      const { status, stdout, stderr } = await plain({ ...relay, pair, folder });
      assert.equal(status, 0, `${stdout}${stderr}${relay.stderr()}${postfix.log()}`);
      await until('the message is delivered', () => postfix.mails().length > 0, DEADLINE);
      assertContent(postfix.mails().join('|'));
      assert.match(postfix.log(), /TLS connection established from localhost\[127\.0\.0\.1\]: TLSv1\.3 /);
      assert.match(
        postfix.log(),
        /: client=localhost\[127\.0\.0\.1\], sasl_method=PLAIN, sasl_username=alice$/m,
      );
    });
  }

  it('answers 451 with the host when Postfix refuses the credentials', async (t) => {
    const postfix = await startFarPostfix(t);
    const credentials = writeCredentials(makeFolder(t), 'looking glass');
    const words = ['--credentials', credentials, `tls://localhost:${postfix.port}`];
    const relay = await tcpserver(t, [ours('smtp-relay-io'), ...words], ENVIRONMENT);
    const { status, stdout } = await swaks(relay.port, [RECIPIENT]);
    assert.notEqual(status, 0);
    assert.match(stdout, /<\*\* 451 4\.7\.8 localhost:\d+: it refused our credentials/);
    await until('the reply is on stderr', () => /credentials: 535 5\.7\.8 /.test(relay.stderr()), DEADLINE);
    assert.deepEqual(postfix.mails(), []);
  });

  it('passes refusals of Postfix on, and the message to the recipients that are left', async (t) => {
    const postfix = await startPostfix(t, { pair });
    const relay = await tcpserver(t, [ours('smtp-relay-io'), `tls://localhost:${postfix.port}`], ENVIRONMENT);
    const { status, stdout } = await swaks(relay.port, ['x@elsewhere.example', RECIPIENT], '--pipeline');
    assert.equal(status, 0, `${stdout}${relay.stderr()}`);
    assert.match(stdout, /^<\*\* 554 5\.7\.1 <x@elsewhere\.example>: Relay access denied\r?$/m);
    await until('the message is delivered', () => postfix.mails().length > 0, DEADLINE);
  });
});

describe('exim, smtp-relay-io and Postfix', {
  concurrency: 2,
  timeout: 60_000,
  skip: SKIP || missing('exim4'),
}, () => {
  for (const [how, wordsFor] of [
    ['a URL', (url: string) => [url]],
    [
      'a route',
      (url: string, folder: string) => {
        writeFileSync(join(folder, 'routes'), `* ${url}\n`);
        return ['--routes', join(folder, 'routes'), '--offer', 'PIPELINING', '--offer', 'CHUNKING'];
      },
    ],
  ] as const) {
    it(`pass a message of many chunks on by ${how}`, async (t) => {
      const folder = makeFolder(t);
      const postfix = await startPostfix(t, { pair });
      const words = wordsFor(`tls://localhost:${postfix.port}`, folder);
      const relay = await tcpserver(t, [ours('smtp-relay-io'), ...words], ENVIRONMENT);
      const lines = Array.from({ length: 20_000 }, (_, number) => `${number % 7 === 0 ? '.' : ''}${number}`);
      const body = `${lines.join('\n')}\n.\nQUIT\n`;
      const command = eximClientIn(folder, relay.port, SENDER, RECIPIENT);
      const { status, stderr } = await run(command, { input: `Subject: chunks\n\n${body}` });
      assert.equal(status, 0, `${stderr}${relay.stderr()}`);
      await until('the message is delivered', () => postfix.mails().length === 1, DEADLINE);
      assert.equal(postfix.mails().join().split('\n\n').slice(1).join('\n\n'), body);
      await until('the session is logged', () => / disconnect from .* bdat=/.test(postfix.log()), DEADLINE);
      const [, chunks] = / disconnect from .* bdat=(\d+) /.exec(postfix.log()) ?? [];
      assert.ok(Number(chunks) > 1, postfix.log());
    });
  }
});

describe('Postfix with smtpd-starttls-server as its next hop', {
  concurrency: 2,
  timeout: 120_000,
  skip: SKIP,
}, () => {
  for (const [how, options, log] of [
    ['in cleartext', ['--no-starttls'], /^(?!.*TLS connection established to )/s],
    [
      'in TLS',
      ['--require-tls'],
      /TLS connection established to 127\.0\.0\.1\[127\.0\.0\.1\]:\d+: TLSv1\.3 /,
    ],
  ] as const) {
    it(`sends to Postfix by a route, ${how}`, async (t) => {
      const folder = makeFolder(t);
      const far = await startFarPostfix(t);
      const routes = join(folder, 'routes');
      writeFileSync(routes, `@example.org tls://localhost:${far.port}\n`);
      const words = ['--routes', routes, '--credentials', writeCredentials(folder, 'wonder land')];
      const environment = { ...KEYS, RELAY_CAFILE: authority.certFile };
      const server = await startServer([...options, ...words], [], { environment });
      t.after(server.close);
      const near = await startPostfix(t, { next: `smtp:[127.0.0.1]:${server.port}` });
      const { status, stdout } = await swaks(near.port, [RECIPIENT, 'carol@example.net']);
      assert.equal(status, 0, stdout);
      await until('the message is delivered to both', () => far.mails().length === 2, DEADLINE);
      assert.match(near.log(), log);
      assert.match(far.log(), /sasl_username=alice$/m);
    });
  }
});

describe("smtp-relay-io before Dovecot's submission server", {
  concurrency: 2,
  timeout: 60_000,
  skip: SKIP,
}, () => {
  for (const [mechanism, more] of [
    ['DATA', []],
    ['DATA, pipelined', ['--pipeline']],
  ] as const) {
    it(`passes a message on by ${mechanism}`, async (t) => {
      const last = await startPostfix(t, {});
      const dovecot = await startDovecot(t, pair, last.port);
      const credentials = writeCredentials(makeFolder(t), 'wonder land');
      const words = ['--credentials', credentials, `tls://localhost:${dovecot.submissionPort}`];
      const relay = await tcpserver(t, [ours('smtp-relay-io'), ...words], ENVIRONMENT);
      const { status, stdout } = await swaks(relay.port, [RECIPIENT], ...more);
      assert.equal(status, 0, `${stdout}${relay.stderr()}${dovecot.stderr()}`);
      await until('the message is delivered', () => last.mails().length === 1, DEADLINE);
      assert.match(dovecot.stderr(), /submission-login: Info: Login: user=<alice>, method=PLAIN, .* TLS, /);
    });
  }
});

/** The users that Postfix sends a message to by LMTP, and the result for each. */
const RESULTS = { bob: 'sent', nobody: 'bounced', full: 'deferred', carol: 'sent' } as const;

describe('Postfix and Dovecot by LMTP', { concurrency: 2, timeout: 120_000, skip: SKIP }, () => {
  /** Sends a message to users of Dovecot, waits until Postfix has their results, and looks at what was delivered. */
  async function assertResults(
    users: readonly (keyof typeof RESULTS)[],
    near: Postfix,
    dovecot: Dovecot,
  ): Promise<void> {
    const recipients = users.map((user) => `${user}@example.net`);
    const { status, stdout } = await swaks(near.port, recipients);
    assert.equal(status, 0, stdout);
    const lacks = (user: keyof typeof RESULTS): boolean =>
      !new RegExp(`to=<${user}@example\\.net>.* status=${RESULTS[user]} \\((?!.* 452 4\\.5\\.3 )`).test(
        near.log(),
      );
    await until('all recipients have their result', () => !users.some(lacks), DEADLINE).catch(
      (error: Error) => {
        throw new Error(`${error.message}: ${users.filter(lacks).join()}: ${near.log()}${dovecot.stderr()}`);
      },
    );
    for (const user of users) {
      assert.equal(dovecot.mails(user).length, RESULTS[user] === 'sent' ? 1 : 0, user);
    }
    assert.match(near.log(), /to=<nobody@.* 550 5\.1\.1 <nobody@example\.net> User doesn't exist/);
    // The sender is notified of the one who does not exist.
    await until('the bounce is delivered', () => near.mails().length === 1, DEADLINE);
    assert.match(near.mails().join(), /^Final-Recipient: rfc822; nobody@example\.net$/m);
  }

  it('by a URL: each recipient has a reply of its own', async (t) => {
    const dovecot = await startDovecot(t, pair);
    const relay = await tcpserver(t, [ours('smtp-relay-io'), `lmtp+unix:${dovecot.lmtp}`]);
    const near = await startPostfix(t, { next: `lmtp:inet:127.0.0.1:${relay.port}` });
    await assertResults(['bob', 'nobody', 'full', 'carol'], near, dovecot);
    assert.match(near.log(), /to=<full@.* 451 4\.2\.0 /);
  });

  /** Starts what takes mail by routes. @returns the port. */
  const FRONT_ENDS: Readonly<Record<string, (t: TestContext, routes: string) => Promise<number>>> = {
    'smtp-relay-io': async (t, routes) =>
      (await tcpserver(t, [ours('smtp-relay-io'), '--routes', routes])).port,
    'smtpd-starttls-server': async (t, routes) => {
      const server = await startServer(['--routes', routes], [], { environment: KEYS });
      t.after(server.close);
      return server.port;
    },
  };

  for (const [name, start] of Object.entries(FRONT_ENDS)) {
    it(`by a route of ${name}: the message is sent again to each recipient but the first`, async (t) => {
      const dovecot = await startDovecot(t, pair);
      const routes = join(makeFolder(t), 'routes');
      writeFileSync(routes, `to @example.net lmtp+unix:${dovecot.lmtp}\n`);
      const near = await startPostfix(t, { next: `smtp:[127.0.0.1]:${await start(t, routes)}` });
      await assertResults(['bob', 'nobody', 'carol'], near, dovecot);
      assert.match(near.log(), / said: 452 4\.5\.3 /);
    });

    it(`by a route of ${name}: a message for each recipient is sent at once`, async (t) => {
      const dovecot = await startDovecot(t, pair);
      const routes = join(makeFolder(t), 'routes');
      writeFileSync(routes, `to @example.net lmtp+unix:${dovecot.lmtp}\n`);
      const next = `smtp:[127.0.0.1]:${await start(t, routes)}`;
      const near = await startPostfix(t, { next, recipientLimit: 1 });
      await assertResults(['bob', 'nobody', 'full', 'carol'], near, dovecot);
      assert.match(near.log(), /to=<full@.* 451 4\.2\.0 /);
      assert.doesNotMatch(near.log(), / said: 452 /);
    });
  }
});
