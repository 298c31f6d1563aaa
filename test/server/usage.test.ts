/** Command lines and environments that the server rejects: one line on stderr, and exit status 100. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { describe, it } from 'node:test';
import { ours } from '../support/programs.ts';
import { run as runAny } from '../support/real.ts';
import { serverEnvironment } from '../support/server.ts';

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the server with this command line. */
async function run(words: readonly string[], environment: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const child = spawn(ours('smtpd-starttls-server'), words, {
    env: serverEnvironment(environment),
    stdio: ['ignore', 'pipe', 'pipe'],
    // A server that accepts the command line would keep running.
    timeout: 20_000,
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (bytes) => {
    stdout += bytes;
  });
  child.stderr.on('data', (bytes) => {
    stderr += bytes;
  });
  const status = await new Promise<number | null>((resolve) => child.on('close', resolve));
  return { status, stdout, stderr };
}

async function assertRefused(words: readonly string[], why: string, environment?: NodeJS.ProcessEnv) {
  const { status, stdout, stderr } = await run(words, environment);
  assert.equal(stderr, `smtpd-starttls-server: fatal: usage error: ${why}\n`);
  assert.equal(status, 100);
  assert.equal(stdout, '');
}

const AT = ['127.0.0.1', '0'];
const URL = 'tls://mail.example';
const PIN = 'a'.repeat(64);

describe('the value of an option', { concurrency: 2 }, () => {
  for (const [option, least, most] of [
    ['--backlog', 1, 65_535],
    ['--connections', 1, 1_000_000],
    ['--per-address', 1, 1_000_000],
    ['--idle-timeout', 1, 2_000_000],
    ['--relay-idle-timeout', 1, 2_000_000],
    ['--greet-delay', 0, 300],
    ['--error-limit', 1, 1_000_000],
    ['-K', 0, 2_147_483_647],
    ['--grace', 0, 2_000_000],
    ['-k', 0, 2],
    ['--workers', 0, 1024],
    ['--uid', 0, 4_294_967_294],
    ['--gid', 0, 4_294_967_294],
    ['--verbosity', 0, 9],
    ['--notify-fd', 1, 1_000_000],
  ] as const) {
    const values = ['', 'x', '1.5', '1e3', ' 1', '0x1', String(most + 1), ...(least > 0 ? ['0'] : [])];
    it(`${option} is a whole number from ${least} to ${most}`, async () => {
      for (const value of values) {
        const words = [option, value, '--', ...AT, 'true'];
        await assertRefused(words, `${option} takes a whole number from ${least} to ${most}, not ${value}`);
      }
    });
  }

  for (const [words, why] of [
    [['--send-proxy', 'v3', '--to', '127.0.0.1:25', ...AT], '--send-proxy takes v1 or v2, not v3'],
    [['--send-proxy', 'v3', '--to', URL, ...AT], '--send-proxy takes v1 or v2, not v3'],
    [['--to', URL, ...AT, 'true'], 'unexpected argument with --to: true'],
    [
      ['--to', 'tls://alice:wonderland@mail.example', ...AT],
      'a URL must not contain a user or a password, others can read it; see --credentials',
    ],
    [
      ['--to', 'tls+unix:/run/smtpd', ...AT],
      'tls+unix:/run/smtpd requires --pin: a Unix socket has no name to verify',
    ],
    [
      ['--to', 'ssh://mail.example', '--pin', PIN, ...AT],
      '--credentials and --pin have no effect with ssh://',
    ],
    [
      ['--to', 'lmtp://mail.example', '--on-demand', ...AT],
      '--on-demand and lmtp contradict each other: what the server offers is learned by EHLO',
    ],
    [
      ['--to', URL, '--pin', 'AAAA', ...AT],
      '--pin takes a SHA-256 digest of 64 hexadecimal digits, not AAAA',
    ],
    [
      ['--to', URL, '--connect-timeout', '0', ...AT],
      '--connect-timeout takes a whole number from 1 to 2000000, not 0',
    ],
    [['--pin', PIN, ...AT, 'true'], '--pin requires --to with a URL, or --routes'],
    [
      ['--credentials', '/f', '--to', '127.0.0.1:25', ...AT],
      '--credentials requires --to with a URL, or --routes',
    ],
    [['--ssh', 'ssh', '--to', 'unix:/run/smtpd', ...AT], '--ssh requires --to with a URL, or --routes'],
    [['--ssh-option', 'x', ...AT, 'true'], '--ssh-option requires --to with a URL, or --routes'],
    [['--connect-timeout', '5', ...AT, 'true'], '--connect-timeout requires --to with a URL, or --routes'],
    [['--send-proxy', 'v1', ...AT, 'true'], '--send-proxy requires --to'],
    [['--to', '127.0.0.1:25', ...AT, 'true'], 'unexpected argument with --to: true'],
    [
      ['--to', '127.0.0.1', ...AT],
      'expected HOST:PORT, an IPv6 address in brackets as [::1]:25, not "127.0.0.1"',
    ],
    [['--to', '::1:25', ...AT], 'expected HOST:PORT, an IPv6 address in brackets as [::1]:25, not "::1:25"'],
    [['--to', '/run/smtpd', ...AT], 'expected HOST:PORT or unix:PATH, not "/run/smtpd"'],
    [['--to', 'unix:', ...AT], 'expected unix:PATH, a path of 1 to 107 octets, not "unix:"'],
    [
      ['--to', `unix:/${'x'.repeat(107)}`, ...AT],
      `expected unix:PATH, a path of 1 to 107 octets, not "unix:/${'x'.repeat(107)}"`,
    ],
    [['--to', 'unix:/run/smtpd', ...AT, 'true'], 'unexpected argument with --to: true'],
    [
      ['--listen', '25', ...AT, 'true'],
      'expected HOST:PORT, an IPv6 address in brackets as [::1]:25, not "25"',
    ],
    [['--listen', '0:65536', ...AT, 'true'], 'expected a port from 0 to 65535, not "65536"'],
    [
      ['--metrics', '9100', ...AT, 'true'],
      'expected HOST:PORT, an IPv6 address in brackets as [::1]:25, not "9100"',
    ],
    [
      ['--proxy-protocol', '', ...AT, 'true'],
      'expected an address or a network such as 192.0.2.0/24, not ""',
    ],
    [['--proxy-protocol', '10.0.0.0/33', ...AT, 'true'], 'expected a prefix from 0 to 32, not "10.0.0.0/33"'],
  ] as const) {
    it(`${words.join(' ')} is refused`, () => assertRefused(words, why));
  }

  for (const [words, name] of [
    [['-r'], '--require-tls'],
    [['-a'], '--plaintext-auth'],
    [['-f'], '--fresh'],
    [['--implicit-tls'], '--implicit-tls'],
    [['-k', '1'], '-k'],
    [['-Y'], '-Y'],
    [['-y'], '-y'],
    [['--alpn', 'smtp'], '--alpn'],
    [['--ticket-keys', '/f'], '--ticket-keys'],
  ] as const) {
    it(`${name} is refused with --no-starttls`, () =>
      assertRefused(
        ['--no-starttls', ...words, ...AT, 'true'],
        `--no-starttls and ${name} contradict each other`,
      ));
  }
});

describe('a command line', { concurrency: 2 }, () => {
  for (const [words, why] of [
    [[], 'missing host and port'],
    [['127.0.0.1'], 'missing port after 127.0.0.1'],
    [AT, 'missing smtpd command'],
    [['-'], 'missing smtpd command'],
    [
      ['127.0.0.1', 'no-such-service', 'true'],
      'expected a port from 0 to 65535 or a service of /etc/services, not "no-such-service"',
    ],
    [['127.0.0.1', '-1', 'true'], 'expected a port from 0 to 65535 or a service of /etc/services, not "-1"'],
    [
      ['127.0.0.256', '0', 'true'],
      'expected an address or a host name to listen on, 0 or :: for all, not "127.0.0.256"',
    ],
    [['a b', '0', 'true'], 'expected an address or a host name to listen on, 0 or :: for all, not "a b"'],
    [['--listen', '127.0.0.1:0', '-', 'true'], '--listen and - contradict each other'],
    [['-r', '-a', ...AT, 'true'], '--require-tls and --plaintext-auth contradict each other'],
    [['-Y', '-y', ...AT, 'true'], '-Y and -y contradict each other'],
    [['-q', '-v2', ...AT, 'true'], '--quiet and --verbosity contradict each other'],
    [['-v', ...AT, 'true'], '--verbosity takes a whole number from 0 to 9, not 127.0.0.1'],
    [['-vv', ...AT, 'true'], '--verbosity takes a whole number from 0 to 9, not v'],
    [['-U', '-u', '1', ...AT, 'true'], '--user-from-environment and --uid contradict each other'],
    [['-U', '-g', '1', ...AT, 'true'], '--user-from-environment and --gid contradict each other'],
  ] as const) {
    it(`${words.join(' ') || 'without arguments'} is refused`, () => assertRefused(words, why));
  }

  for (const words of [['--nonsense'], ['-Z'], ['--require-tls=yes'], ['--idle-timeout'], ['-c']]) {
    it(`${words.join(' ')} is refused, and named`, async () => {
      const { status, stderr } = await run(words);
      const [, name = ''] = /^(-+[\w-]+)/.exec(words[0] ?? '') ?? [];
      assert.match(stderr, /^smtpd-starttls-server: fatal: usage error: [^\n]*\n$/);
      assert.ok(stderr.includes(name), stderr);
      assert.equal(status, 100);
    });
  }
});

const NO_PROGRAM = 'ENOENT (no such program: check its path, PATH, and the interpreter in its first line)';
const NOT_EXECUTABLE = 'EACCES (not an executable file, or not for this user: namei -l)';

describe('an smtpd', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    for (const [name, status, why] of [
      ['/nowhere/smtpd', 127, NO_PROGRAM],
      ['no-such-smtpd', 127, NO_PROGRAM],
      ['/etc/passwd', 126, NOT_EXECUTABLE],
      ['/etc', 126, NOT_EXECUTABLE],
    ] as const) {
      it(`that is ${name} is refused at the start with ${status}, with --workers ${workers}`, async () => {
        const outcome = await run(['-1', '--workers', workers, ...AT, name]);
        assert.deepEqual(outcome, {
          status,
          stdout: '',
          stderr: `smtpd-starttls-server: fatal: cannot run ${name}: ${why}\n`,
        });
      });
    }
  }

  it('that is reached by ssh needs a program for that', async () => {
    const { status, stderr } = await run(['--to', 'ssh://mail.example', '--ssh', '/nowhere/ssh', ...AT]);
    assert.equal(stderr, `smtpd-starttls-server: fatal: cannot run /nowhere/ssh: ${NO_PROGRAM}\n`);
    assert.equal(status, 127);
  });

  it('is searched for along PATH', async () => {
    const words = [process.execPath, ours('smtpd-starttls-server'), '-1', ...AT, 'sh'];
    const { status, stderr } = await runAny(words, { environment: serverEnvironment({ PATH: '/nowhere' }) });
    assert.equal(stderr, `smtpd-starttls-server: fatal: cannot run sh: ${NO_PROGRAM}\n`);
    assert.equal(status, 127);
  });
});

describe('an environment', { concurrency: 2 }, () => {
  for (const [environment, why] of [
    [{ UID: undefined, GID: '1' }, 'UID is not set'],
    [{ UID: '1', GID: undefined }, 'GID is not set'],
    [{ UID: 'root', GID: '1' }, 'UID is not a number: root'],
    [{ UID: '1', GID: '-1' }, 'GID is not a number: -1'],
    [{ UID: '4294967295', GID: '1' }, 'UID is not a number: 4294967295'],
    [{ UID: '1', GID: '1', GIDLIST: '1,wheel' }, 'GIDLIST is not a number: wheel'],
    [{ UID: '1', GID: '1', GIDLIST: '1,' }, 'GIDLIST is not a number: '],
  ] as const) {
    it(`with ${JSON.stringify(environment)} is rejected by -U`, () =>
      assertRefused(['-U', ...AT, 'true'], why, environment));
  }

  for (const workers of ['1', '2']) {
    for (const [what, environment] of [
      ['no CERTFILE', { CERTFILE: undefined }],
      ['no KEYFILE', { KEYFILE: undefined }],
      ['a CERTFILE that is no certificate', { CERTFILE: '/etc/passwd' }],
    ] as const) {
      it(`with ${what} is reported once, with --workers ${workers}`, async () => {
        const { status, stdout, stderr } = await run(
          ['-1', '--workers', workers, ...AT, 'true'],
          environment,
        );
        assert.match(stderr, /^smtpd-starttls-server: fatal: unable to set up TLS: [^\n]*\n$/);
        assert.equal(status, 100);
        assert.equal(stdout, '');
      });
    }
  }

  for (const [what, environment, status, why] of [
    [
      'a RELAY_CAFILE that is missing',
      { RELAY_CAFILE: '/nowhere' },
      111,
      'unable to read RELAY_CAFILE /nowhere: ENOENT (no such file, or a link to one that does not exist)',
    ],
    [
      'no RELAY_KEYFILE',
      { RELAY_CERTFILE: '/nowhere' },
      100,
      'unable to set up TLS: RELAY_KEYFILE is not set',
    ],
  ] as const) {
    it(`with ${what} is reported with --to URL, and has no effect without it`, async () => {
      const outcome = await run(['--to', URL, ...AT], environment);
      assert.equal(outcome.stderr, `smtpd-starttls-server: fatal: ${why}\n`);
      assert.equal(outcome.status, status);
      assert.equal((await run([...AT, '/nowhere/smtpd'], environment)).status, 127);
    });
  }

  it('whose CERTFILE is missing ends with 111', async () => {
    const { status, stderr } = await run([...AT, 'true'], { CERTFILE: '/nowhere/cert.pem' });
    assert.match(stderr, /^smtpd-starttls-server: fatal: [^\n]*ENOENT[^\n]*\n$/);
    assert.equal(status, 111);
  });
});

describe('help', () => {
  it('is written to stdout, and needs no certificate', async () => {
    const { status, stdout, stderr } = await run(['--help'], { CERTFILE: undefined });
    assert.match(stdout, /^Usage: smtpd-starttls-server /);
    assert.deepEqual([status, stderr], [0, '']);
  });

  it('prints the version', async () => {
    const { status, stdout } = await run(['--version']);
    assert.match(stdout, /^smtpd-starttls-server \d+\.\d+\.\d+\n$/);
    assert.equal(status, 0);
  });
});
