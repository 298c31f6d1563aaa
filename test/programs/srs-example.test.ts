/** The example of SRS between Postfix and its relay, with exim as the relay, which sends bounces. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { lineIn, readExample, replace, startByCommand } from '../support/examples.ts';
import { type EximHost, makeEximHost } from '../support/exim-host.ts';
import { type FarServer, startFarServer } from '../support/far-server.ts';
import { noPostfix, type Postfix, startPostfix } from '../support/postfix.ts';
import { until } from '../support/processes.ts';
import { missing, ROOT } from '../support/programs.ts';
import { type Outcome, run } from '../support/real.ts';
import { makeFolder } from '../support/real-chain.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';
import { DEADLINE } from '../support/within.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');
const ENVIRONMENT = { CERTFILE: undefined, KEYFILE: undefined, RELAY_CAFILE: authority.certFile };

const UNIT = readExample('srs-postfix/smtp-srs.service');

/** As in the unit. */
const PORTS = { pack: 10252, unpack: 10262 };

interface Ports {
  readonly pack: number;
  readonly unpack: number;
}

/** Makes a key by the command of the README. @returns the path of the file. */
async function makeKey(t: TestContext): Promise<string> {
  const file = join(makeFolder(t), 'srs-keys');
  const command = replace(lineIn('srs-postfix', '(umask'), { '/etc/postfix/srs-keys': file });
  assert.equal((await run(['sh', '-c', command])).status, 0);
  return file;
}

/** The command of a line of a unit. */
function commandIn(line: string): string {
  const [, command = ''] = /^ExecStart=(.*)$/m.exec(line) ?? [];
  return command;
}

/** Starts a server by a command of the example. The relay is on this port of localhost. */
function startCommand(t: TestContext, command: string, keys: string, relay: number): Promise<RunningServer> {
  const parts = { '/etc/postfix/srs-keys': keys, 'smtp.example.net': `localhost:${relay}` };
  // By default it has the name of the host, which is that of Postfix too.
  return startByCommand(t, replace(command, parts), { environment: ENVIRONMENT }, '-l', 'mail.example.org');
}

async function startOne(t: TestContext, relay: number): Promise<Ports> {
  const command = replace(commandIn(UNIT), { [`127.0.0.1:${PORTS.unpack}`]: '127.0.0.1:0' });
  const server = await startCommand(t, command, await makeKey(t), relay);
  const [pack = 0, unpack = 0] = server.ports;
  return { pack, unpack };
}

async function startWithOnePort(t: TestContext, relay: number): Promise<Ports> {
  const { pack } = await startOne(t, relay);
  return { pack, unpack: pack };
}

async function startTwo(t: TestContext, relay: number): Promise<Ports> {
  const keys = await makeKey(t);
  const startFor = async (direction: string): Promise<number> => {
    const start = 'ExecStart=/usr/local/bin/smtpd-starttls-server -v 2 --no-starttls -u 8 -g 65534';
    const command = commandIn(lineIn('srs-postfix', `${start} ${direction} `));
    return (await startCommand(t, command, keys, relay)).port;
  };
  return { pack: await startFor('--srs-pack'), unpack: await startFor('--srs-unpack') };
}

const SETUPS = {
  'one server': startOne,
  'one port of it': startWithOnePort,
  'two servers': startTwo,
};

/** Starts Postfix with the files of the example, and aliases in example.org. */
function startExamplePostfix(t: TestContext, ports: Ports): Promise<Postfix> {
  const folder = makeFolder(t);
  const copy = (name: string, parts: Readonly<Record<string, string>> = {}): string => {
    const path = join(folder, name);
    writeFileSync(path, replace(readExample(`srs-postfix/${name}`), parts), { mode: 0o644 });
    return path;
  };
  const transport = { [`:${PORTS.unpack}`]: `:${ports.unpack}` };
  const lines = replace(readExample('srs-postfix/main.cf'), {
    [`:${PORTS.pack}`]: `:${ports.pack}`,
    '/etc/postfix/srs-recipients': copy('srs-recipients'),
    '/etc/postfix/srs-transport': copy('srs-transport', transport),
  });
  return startPostfix(t, {
    lines: `${lines}
virtual_mailbox_domains = example.org
virtual_mailbox_maps = inline:{bob@example.org=box/}
virtual_alias_maps = inline:{team@example.org=carol@far.example, gone@example.org=gone@far.example}
`,
  });
}

/** Postfix and its relay, which is the mail server of far.example too, with a mailbox for carol. */
interface Hosts {
  readonly ports: Ports;
  readonly postfix: Postfix;
  readonly relay: EximHost;
  readonly senderMx: FarServer;
}

async function startHosts(t: TestContext, start: typeof startOne): Promise<Hosts> {
  const senderMx = await startFarServer(t, {});
  const relay = makeEximHost(t);
  const keys = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };
  const front = await startServer(['--fresh'], relay.command, { environment: keys });
  t.after(front.close);
  const ports = await start(t, front.port);
  const postfix = await startExamplePostfix(t, ports);
  const mx = { 'example.org': postfix.port, 'sender.example': senderMx.port };
  relay.configure({ domain: 'far.example', relays: true, mx });
  return { ports, postfix, relay, senderMx };
}

function send({ postfix }: Hosts, from: string, to: string): Promise<Outcome> {
  const words = ['--server', `127.0.0.1:${postfix.port}`, '--from', from, '--to', to];
  return run(['swaks', ...words, '--body', `From ${from}.`]);
}

async function assertSent(hosts: Hosts, from: string, to: string): Promise<void> {
  const { status, stdout, stderr } = await send(hosts, from, to);
  assert.equal(status, 0, `${stdout}${stderr}`);
}

/** Waits, and shows the logs if that is in vain. */
async function untilLogged({ postfix, relay }: Hosts, what: string, condition: () => boolean): Promise<void> {
  await until(what, condition, DEADLINE).catch((error) => {
    throw new Error(`${error}: ${postfix.log()}${relay.log()}`);
  });
}

/** Sends a message to a mailbox, and returns the sender that it has there. */
async function returnPathOf(hosts: Hosts, from: string): Promise<string> {
  await assertSent(hosts, from, 'team@example.org');
  const { relay } = hosts;
  await untilLogged(hosts, 'message in the mailbox', () => relay.mailbox().includes(`From ${from}.`));
  const paths = [...relay.mailbox().matchAll(/^Return-path: <(.*)>$/gm)];
  return paths.at(-1)?.[1] ?? '';
}

describe('SRS between Postfix and its relay', {
  timeout: 120_000,
  skip: noPostfix() || missing('exim4', 'swaks'),
}, () => {
  for (const [name, start] of Object.entries(SETUPS)) {
    it(`packs the sender of forwarded mail, and the bounce comes back, with ${name}`, async (t) => {
      const hosts = await startHosts(t, start);
      const { ports, postfix, senderMx } = hosts;
      assert.match(
        await returnPathOf(hosts, 'alice@sender.example'),
        /^SRS0=[^=]{4}=[^=]{2}=sender\.example=alice@example\.org$/,
      );
      assert.equal(await returnPathOf(hosts, 'bob@example.org'), 'bob@example.org');
      assert.equal(await returnPathOf(hosts, 'bob@example.com'), 'bob@example.com');

      // The case stays, and quotes do; the SRS address of the last one is longer than RFC 5321 requires servers to accept.
      const long = `${'l'.repeat(60)}@sender.example`;
      const senders = ['Alice@sender.example', '"alice smith"@sender.example', long];
      for (const [index, sender] of senders.entries()) {
        await assertSent(hosts, sender, 'gone@example.org');
        const bounces = (): string[] => senderMx.connections.map(({ cleartext }) => cleartext);
        const isDelivered = (): boolean => senderMx.connections[index]?.delivered !== undefined;
        await untilLogged(hosts, `bounce to ${sender}`, isDelivered);
        assert.equal(bounces().length, index + 1);
        assert.match(bounces()[index] ?? '', /^MAIL FROM:<>/m);
        assert.ok(bounces()[index]?.includes(`\r\nRCPT TO:<${sender}>`), bounces()[index]);
        assert.match(bounces()[index] ?? '', /^ {2}gone@far\.example\r\n/m);
      }
      const count = (port: number, to: string): number =>
        postfix
          .log()
          .split('\n')
          .filter(
            (line) => line.includes(`to=<${to}`) && line.includes(`relay=127.0.0.1[127.0.0.1]:${port},`),
          ).length;
      // Postfix logs a delivery after the relay has replied.
      await untilLogged(hosts, 'the ports', () => count(ports.pack, 'gone@far.example') === senders.length);
      await untilLogged(hosts, 'the ports', () => count(ports.unpack, 'SRS0=') === 2);
      await untilLogged(hosts, 'the ports', () => count(ports.unpack, '"SRS0=') === 1);
    });
  }

  it('refuses forged addresses, and Postfix refuses others that it does not know', async (t) => {
    const hosts = await startHosts(t, startOne);
    const { postfix, senderMx } = hosts;
    const unknown = await send(hosts, '<>', 'dave@example.org');
    assert.match(unknown.stdout, /<\*\* 550 5\.1\.1 /);
    await assertSent(hosts, '<>', 'SRS0=AAAA=BB=sender.example=alice@example.org');
    await untilLogged(hosts, 'refusal in the log', () =>
      /status=bounced .*said: 550 5\.1\.1 /.test(postfix.log()),
    );
    assert.deepEqual(senderMx.connections, []);
  });
});

describe('the server for both directions of SRS', () => {
  /** With ports that are free, as far as anyone can know. */
  async function start(t: TestContext, unpack: number): Promise<RunningServer> {
    const command = replace(commandIn(UNIT), {
      [`127.0.0.1:${PORTS.unpack}`]: `127.0.0.1:${unpack}`,
      ...(process.getuid?.() !== 0 && { ' -u 8 -g 65534': '' }),
    });
    return startCommand(t, command, await makeKey(t), await closedPort());
  }

  it('does not start without one of its ports', async (t) => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    t.after(() => other.close());
    const address = other.address();
    const port = typeof address === 'string' || address === null ? 0 : address.port;
    await assert.rejects(
      start(t, port),
      new RegExp(`ended with 111: .*unable to listen on 127\\.0\\.0\\.1 port ${port}: EADDRINUSE`, 's'),
    );
  });

  it('closes both ports when it ends', async (t) => {
    const server = await start(t, 0);
    assert.equal(server.ports.length, 2);
    for (const port of server.ports) (await connectSmtp(port)).destroy();
    server.signal('SIGTERM');
    await server.ended;
    for (const port of server.ports) await assert.rejects(connectSmtp(port), { code: 'ECONNREFUSED' });
  });

  it('has a unit in which systemd-analyze finds nothing wrong', { skip: missing('systemd-analyze') }, (t) => {
    const file = join(makeFolder(t), 'smtp-srs.service');
    writeFileSync(file, replace(UNIT, { '/usr/local/bin': join(ROOT, 'dist/bin') }));
    const words = ['verify', '--recursive-errors=no', file];
    const { status, stderr } = spawnSync('systemd-analyze', words, { encoding: 'utf8' });
    assert.equal(stderr, '');
    assert.equal(status, 0);
  });
});
