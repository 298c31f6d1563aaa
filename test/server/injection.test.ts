/** Bytes that arrive in cleartext after STARTTLS, where the server does TLS itself. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { smtpdsOf } from '../reliability/vitals.ts';
import {
  ATTACK,
  assertGoesOn,
  assertNotInjected,
  describeInjection,
  INJECTED,
  type InjectionSession,
  type OpenSession,
} from '../support/injection.ts';
import { unreadOctets } from '../support/kernel.ts';
import { until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { startServer } from '../support/server.ts';
import { certificate } from '../support/shim.ts';
import { connectSmtp } from '../support/smtp-client.ts';
import { DEADLINE } from '../support/within.ts';

function openWith(options: readonly string[], environment: NodeJS.ProcessEnv = {}): OpenSession {
  return async (t, smtpd) => {
    const folder = mkdtempSync(join(tmpdir(), 'injection-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    const record = join(folder, 'record');
    const command = fixture('smtpd-script', `--record=${record}`, ...smtpd);
    const server = await startServer(options, command, { environment });
    t.after(() => server.close());
    const client = await connectSmtp(server.port, { limit: DEADLINE });
    t.after(() => client.destroy());
    const session: InjectionSession = {
      client,
      record: () => (existsSync(record) ? readFileSync(record, 'latin1') : ''),
      hasRead: (text) => until(`smtpd reads ${text}`, () => session.record().includes(text)),
      release: async () => {
        await until('smtpd waits', () => existsSync(`${record}.waits`));
        for (const smtpd of smtpdsOf(server.pid)) process.kill(smtpd, 'SIGUSR1');
      },
      ended: () => until('smtpd has ended', () => smtpdsOf(server.pid).length === 0),
      unread: () => unreadOctets(server.port, client.tcp().localPort ?? 0),
      readsAhead: true,
    };
    return session;
  };
}

const { certFile, keyFile } = certificate();

describeInjection('at the server', {
  'with one process': openWith([]),
  'with two workers': openWith(['--workers', '2']),
  'with a second smtpd': openWith(['--fresh']),
  // The ClientHello is inspected before the TLS engine reads it.
  'with certificates by name': openWith(['-k', '1'], {
    'CERTFILE:mail.example.org': certFile,
    'KEYFILE:mail.example.org': keyFile,
  }),
});

describe('commands injected at the server in other ways', () => {
  it('never reach smtpd with a PROXY header in the same packet', async (t) => {
    const session = await openWith(['--proxy-protocol', '127.0.0.1'])(t, []);
    session.client.send(`PROXY TCP4 192.0.2.7 192.0.2.8 4711 25\r\n${ATTACK}`);
    assert.match(await session.client.reply(), /^220 /);
    assert.match(await session.client.reply(), /^503 5\.5\.1 /);
    await assertGoesOn(session);
  });

  it('start no smtpd with --on-demand, in the packet of STARTTLS', async (t) => {
    const session = await openWith(['--on-demand'])(t, []);
    const introduction = session.record();
    assert.match(introduction, /^EHLO .*QUIT\r\n$/s);
    assert.match(await session.client.reply(), /^220 /);
    session.client.send(ATTACK);
    assert.match(await session.client.reply(), /^503 5\.5\.1 /);
    await session.client.startTls();
    assert.equal(await session.client.ask('NOOP'), '250 2.0.0 OK');
    session.client.sendLines('QUIT');
    await assertNotInjected(session, introduction);
  });

  it('start no smtpd with --on-demand, after the 220', async (t) => {
    const session = await openWith(['--on-demand'])(t, []);
    const introduction = session.record();
    assert.match(await session.client.reply(), /^220 /);
    assert.match(await session.client.ask('STARTTLS'), /^220 /);
    session.client.send(INJECTED);
    await assertNotInjected(session, introduction);
  });

  it('never reach smtpd before the ClientHello of --implicit-tls', async (t) => {
    const session = await openWith(['--implicit-tls'])(t, []);
    session.client.send(INJECTED);
    await assertNotInjected(session, '');
  });
});
