/** Mail that exim forwards with SRS, and its bounces, which exim sends: from the first sender, and back to it. */

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { type EximHost, makeEximHost } from '../support/exim-host.ts';
import { type FarServer, startFarServer } from '../support/far-server.ts';
import { until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { run, tcpserver } from '../support/real.ts';
import { makeFolder } from '../support/real-chain.ts';
import { startServer } from '../support/server.ts';
import { certificate } from '../support/shim.ts';
import { writeKeys } from '../support/srs.ts';
import { DEADLINE } from '../support/within.ts';

const SENDER = 'Alice@sender.example';

/** How the programs of a forwarder are started: what packs in front of exim, and what unpacks. */
interface Kind {
  /** @returns the port. */
  pack(t: TestContext, domain: string, keys: string, smtpd: readonly string[]): Promise<number>;
  /** @param routes the mail servers of all domains. @returns the port. */
  unpack(t: TestContext, domain: string, keys: string, routes: string): Promise<number>;
}

const ONE_SERVER: Kind = {
  pack: (t, domain, keys, smtpd) =>
    listen(t, ['--fresh', '--srs', domain, '--srs-keys', keys, '--srs-pack'], smtpd),
  unpack: (t, domain, keys, routes) =>
    listen(t, ['--srs', domain, '--srs-keys', keys, '--srs-unpack', '--routes', routes], []),
};

const CHAIN: Kind = {
  pack: (t, domain, keys, smtpd) =>
    chain(t, ['--fresh'], ['-k', keys, '-d', domain, '--pack', '--', ...smtpd]),
  unpack: (t, domain, keys, routes) =>
    chain(t, [], ['-k', keys, '-d', domain, '--unpack', ours('smtp-relay-io'), '--routes', routes]),
};

async function listen(t: TestContext, options: string[], smtpd: readonly string[]): Promise<number> {
  const server = await startServer(options, smtpd);
  t.after(server.close);
  return server.port;
}

async function chain(t: TestContext, options: readonly string[], srs: readonly string[]): Promise<number> {
  const command = [ours('smtpd-starttls-proxy'), ...options, '--', ours('smtpd-srs-io'), ...srs];
  const { certFile, keyFile } = certificate();
  return (await tcpserver(t, command, { CERTFILE: certFile, KEYFILE: keyFile })).port;
}

/** The first sender, forwarders, and the host of the last recipient, far.example, with a mailbox for carol. */
interface Hosts {
  readonly senderMx: FarServer;
  readonly far: EximHost;
  /** The port of a host. */
  portOf(domain: string): number;
  /** All logs, for messages of assertions. */
  logs(): string;
}

/**
 * Starts all hosts. The first forwarder is one.example and sends to the second, two.example, if there is one; the last
 * one sends to far.example. Each forwards team to carol, and gone to an address that does not exist.
 */
async function startHosts(t: TestContext, ...kinds: readonly Kind[]): Promise<Hosts> {
  const senderMx = await startFarServer(t, { pair: certificate() });
  const far = makeEximHost(t);
  const mx: Record<string, number> = {
    'sender.example': senderMx.port,
    'far.example': await listen(t, ['--fresh'], far.command),
  };
  const forwarders = kinds.map((kind, index) => ({
    kind,
    domain: ['one.example', 'two.example'][index] ?? '',
    exim: makeEximHost(t),
    keys: writeKeys(t, `the key of forwarder ${index}\n`),
  }));
  for (const { kind, domain, exim, keys } of forwarders) {
    mx[domain] = await kind.pack(t, domain, keys, exim.command);
  }

  const routes = join(makeFolder(t), 'routes');
  const lines = Object.entries(mx).map(([domain, port]) => `to @${domain} smtp+tls://localhost:${port}\n`);
  writeFileSync(routes, lines.join(''));
  for (const [index, { kind, domain, exim, keys }] of forwarders.entries()) {
    const next = forwarders[index + 1]?.domain;
    const aliases =
      next === undefined
        ? { team: 'carol@far.example', gone: 'gone@far.example' }
        : { team: `team@${next}`, gone: `gone@${next}` };
    exim.configure({ domain, aliases, srsPort: await kind.unpack(t, domain, keys, routes), mx });
  }
  far.configure({ domain: 'far.example', mx });
  const all = [far, ...forwarders.map(({ exim }) => exim)];
  return {
    senderMx,
    far,
    portOf: (domain) => mx[domain] ?? 0,
    logs: () => all.map(({ log }) => log()).join('\n'),
  };
}

/** Sends a message to the first forwarder, with STARTTLS. */
async function send({ portOf, logs }: Hosts, local: string): Promise<void> {
  const server = `127.0.0.1:${portOf('one.example')}`;
  const words = ['--server', server, '--tls', '--from', SENDER, '--to', `${local}@one.example`];
  const { status, stdout, stderr } = await run(['swaks', ...words, '--body', 'Hi.']);
  assert.equal(status, 0, `${stdout}${stderr}${logs()}`);
}

/** Waits for the message, and returns the address that its bounces would go to. */
async function returnPathOf({ far, logs }: Hosts): Promise<string> {
  await until('the message is in the mailbox', () => far.mailbox().includes('Hi.'), DEADLINE).catch(
    (error) => {
      throw new Error(`${error}: ${logs()}`);
    },
  );
  const [, returnPath = ''] = /^Return-path: <(.*)>$/m.exec(far.mailbox()) ?? [];
  return returnPath;
}

/** Waits for the bounce at the mail server of the first sender, and returns all that the server was sent. */
async function bounceAt({ senderMx, logs }: Hosts): Promise<string> {
  const isDelivered = (): boolean => senderMx.connections.some(({ delivered }) => delivered !== undefined);
  await until('the bounce is delivered', isDelivered, DEADLINE).catch((error) => {
    throw new Error(`${error}: ${logs()}`);
  });
  assert.equal(senderMx.connections.length, 1);
  assert.equal(senderMx.connections[0]?.delivered, 'in TLS');
  return senderMx.connections[0]?.tls ?? '';
}

describe('mail that is forwarded', {
  timeout: 120_000,
  skip:
    process.getuid?.() === 0
      ? missing('exim4', 'swaks', 'tcpserver')
      : 'exim takes another configuration from root alone',
}, () => {
  for (const [name, kind] of Object.entries({ 'smtpd-starttls-server': ONE_SERVER, 'smtpd-srs-io': CHAIN })) {
    it(`has an SRS0 sender with ${name}, and a bounce of exim comes back`, async (t) => {
      const hosts = await startHosts(t, kind);
      await send(hosts, 'team');
      assert.match(await returnPathOf(hosts), /^SRS0=[^=]{4}=[^=]{2}=sender\.example=Alice@one\.example$/);
      await send(hosts, 'gone');
      const bounce = await bounceAt(hosts);
      assert.match(bounce, /^MAIL FROM:<>.*\r\nRCPT TO:<Alice@sender\.example>.*\r\n/m);
      assert.match(bounce, /^ {2}gone@far\.example\r\n/m);
    });
  }

  it('has an SRS1 sender behind a second forwarder, and the bounce comes back by both', async (t) => {
    const hosts = await startHosts(t, ONE_SERVER, CHAIN);
    await send(hosts, 'team');
    assert.match(
      await returnPathOf(hosts),
      /^SRS1=[^=]{4}=one\.example==[^=]{4}=[^=]{2}=sender\.example=Alice@two\.example$/,
    );
    await send(hosts, 'gone');
    const bounce = await bounceAt(hosts);
    assert.match(bounce, /^MAIL FROM:<>.*\r\nRCPT TO:<Alice@sender\.example>.*\r\n/m);
    assert.match(bounce, /^ {2}gone@far\.example\r\n/m);
  });
});
