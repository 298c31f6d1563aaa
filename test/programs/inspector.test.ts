/**
 * Node opens its inspector on SIGUSR1 unless the program handles that signal, and a process that connects to it
 * can read the memory of the program, its keys included. An smtpd may send that signal to the process that started
 * it, if both run as the same user.
 */

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { newMaildir } from '../maildir/server.ts';
import { serve, watch } from '../support/chain.ts';
import { fixture, ours } from '../support/programs.ts';
import { serverEnvironment, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { writeKeys } from '../support/srs.ts';
import { closedPort } from '../support/tcp.ts';

const NOBODY = '65534';
const AS_NOBODY = ['-u', NOBODY, '-g', NOBODY];
const IS_ROOT = process.getuid?.() === 0;

/** A compromised smtpd: it signals its parent repeatedly, and tries to open its memory. */
const COMPROMISED = [
  'sh',
  '-c',
  `kill -USR1 $PPID
  if (exec 9<>/proc/$PPID/mem) 2>/dev/null; then memory=readable; else memory=unreadable; fi
  printf "220 $memory\\r\\n"
  while read -r line; do kill -USR1 $PPID; printf "250 ok\\r\\n"; done`,
];

/** A program that serves a client, with a compromised smtpd. */
interface Attacked {
  readonly client: SmtpClient;
  readonly pid: number;
  stderr(): string;
  /** Ends it, and settles when it has exited. */
  end(): Promise<unknown>;
}

/** Starts it, with changes to its environment. Everything is ended after the test. */
type Start = (t: TestContext, environment: NodeJS.ProcessEnv) => Promise<Attacked>;

/** A program for one connection on descriptors 0 and 1. */
function onDescriptors(...command: readonly string[]): Start {
  return async (t, environment) => {
    const chain = await serve(command, serverEnvironment(environment));
    t.after(chain.close);
    const client = await connectSmtp(chain.port);
    t.after(client.destroy);
    const served = await chain.served(0);
    const end = (): Promise<unknown> => {
      client.end();
      return served.ended;
    };
    return { client, pid: served.pid, stderr: served.stderr, end };
  };
}

function asServer(...options: readonly string[]): Start {
  return async (t, environment) => {
    const server = await startServer(options, COMPROMISED, { environment });
    t.after(server.close);
    const client = await connectSmtp(server.port);
    t.after(client.destroy);
    const end = (): Promise<unknown> => {
      client.end();
      server.signal('SIGTERM');
      return server.ended;
    };
    return { client, pid: server.pid, stderr: server.stderr, end };
  };
}

const PROXY = [ours('smtpd-starttls-proxy')];
const TLSD = [ours('ucspi-tlsd')];
const BECOME_NOBODY = ['setpriv', '--reuid', NOBODY, '--regid', NOBODY, '--clear-groups'];

const SAME_USER: Readonly<Record<string, Start>> = {
  'smtpd-starttls-proxy': onDescriptors(...PROXY, ...COMPROMISED),
  'smtpd-starttls-proxy-io': onDescriptors(
    ...fixture('s6-ucspitlsd-double'),
    ours('smtpd-starttls-proxy-io'),
    ...COMPROMISED,
  ),
  'ucspi-tlsd': onDescriptors(...TLSD, ...COMPROMISED),
  'smtpd-starttls-server': asServer(),
  'a worker of smtpd-starttls-server': asServer('--workers', '2'),
};

const STARTED_AS_ROOT: Readonly<Record<string, Start>> = {
  'smtpd-starttls-proxy': onDescriptors(...PROXY, ...AS_NOBODY, ...COMPROMISED),
  'ucspi-tlsd': (t, environment) =>
    onDescriptors(
      ...TLSD,
      ...BECOME_NOBODY,
      ...COMPROMISED,
    )(t, {
      ...environment,
      TLS_UID: NOBODY,
      TLS_GID: NOBODY,
    }),
  'a worker of smtpd-starttls-server': asServer(...AS_NOBODY),
};

/** Whether something listens on a port of 127.0.0.1. */
function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => resolve(false));
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });
}

/**
 * Has a session with a program that gets SIGUSR1 throughout.
 *
 * @param signal sends the signal, for a program without an smtpd that does.
 * @returns the greeting.
 */
async function assertNoInspector(
  t: TestContext,
  start: Start,
  signal?: (pid: number) => void,
): Promise<string> {
  const port = await closedPort();
  const attacked = await start(t, { NODE_OPTIONS: `--inspect-port=127.0.0.1:${port}` });
  const greeting = await attacked.client.reply();
  for (let count = 0; count < 50; count++) {
    signal?.(attacked.pid);
    assert.match(await attacked.client.ask('NOOP'), /^250 /);
  }
  assert.equal(await isOpen(port), false, 'the inspector is open');
  await attacked.end();
  // Node itself writes a line when it opens the inspector.
  assert.doesNotMatch(attacked.stderr(), /debugger/i);
  return greeting;
}

describe('SIGUSR1 opens no inspector', { concurrency: 2, timeout: 60_000 }, () => {
  for (const [name, start] of Object.entries(SAME_USER)) {
    it(`in ${name}, from its smtpd`, async (t) => {
      assert.match(await assertNoInspector(t, start), /^220 /);
    });
  }

  it('in smtpd-srs-io, from its smtpd', async (t) => {
    const srs = [ours('smtpd-srs-io'), '-k', writeKeys(t, 'secret\n'), '-d', 'ours.example'];
    assert.match(await assertNoInspector(t, onDescriptors(...srs, ...COMPROMISED)), /^220 /);
  });

  it('in smtpd-maildir', async (t) => {
    const start = onDescriptors(ours('smtpd-maildir'), newMaildir(t));
    await assertNoInspector(t, start, (pid) => process.kill(pid, 'SIGUSR1'));
  });
});

describe('the handler of SIGUSR1', () => {
  /** Writes the name of each module that a program loads before there is a handler. */
  const SPY = `const { Module } = require('node:module');
    const load = Module._load;
    Module._load = function (request, parent, ...rest) {
      if (parent?.filename?.includes('/dist/') && process.listenerCount('SIGUSR1') === 0) console.log('early: ' + request);
      return load.call(this, request, parent, ...rest);
    };`;

  for (const name of [
    'smtpd-starttls-server',
    'smtpd-starttls-proxy',
    'smtpd-starttls-proxy-io',
    'ucspi-tlsd',
    'smtpd-maildir',
    'smtp-relay-io',
    'smtpd-srs-io',
  ]) {
    it(`is installed before ${name} loads any module`, (t) => {
      const folder = mkdtempSync(join(tmpdir(), 'spy-'));
      t.after(() => rmSync(folder, { recursive: true }));
      const spy = join(folder, 'spy.cjs');
      writeFileSync(spy, SPY);
      const { stdout, status } = spawnSync(ours(name), ['--version'], {
        env: { ...process.env, NODE_OPTIONS: `--require=${spy}` },
        encoding: 'utf8',
      });
      assert.equal(status, 0);
      assert.match(stdout, new RegExp(`^${name} .*\\n$`));
    });
  }
});

describe('a program that has dropped root', { concurrency: 2, skip: IS_ROOT ? false : 'not root' }, () => {
  for (const [name, start] of Object.entries(STARTED_AS_ROOT)) {
    it(`has memory that an smtpd of the same user cannot read (${name})`, async (t) => {
      assert.equal(await assertNoInspector(t, start), '220 unreadable');
    });
  }
});

describe('an inspector that is open at the start', { concurrency: 2 }, () => {
  const environment = serverEnvironment({ NODE_OPTIONS: '--inspect=127.0.0.1:0' });
  for (const [name, ...words] of [
    ['smtpd-starttls-proxy', 'true'],
    ['ucspi-tlsd', 'true'],
    ['smtpd-starttls-server', '127.0.0.1', '0', 'true'],
    ['smtpd-srs-io', '-k', '/nonexistent', '-d', 'ours.example', 'true'],
  ] as const) {
    it(`prevents ${name} from reading a key`, async () => {
      const child = spawn(ours(name), words, { env: environment, stdio: ['pipe', 'pipe', 'pipe'] });
      const { ended, stderr } = watch(child);
      child.stdin.end();
      child.stdout.resume();
      assert.deepEqual(await ended, { code: 111, signal: null });
      assert.match(
        stderr(),
        new RegExp(
          `^${name}: fatal: unable to start: the Node inspector is open at ws://127\\.0\\.0\\.1:\\d+/`,
          'm',
        ),
      );
    });
  }
});
