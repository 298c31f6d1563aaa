/** DNS servers: a real one, one that sends nothing, and one that sends what no real one does. */

import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { watch } from './chain.ts';
import { closedPort } from './tcp.ts';

/**
 * Starts dnsmasq on 127.0.0.1, until the end of the test. It answers for names below "example", and refuses all others.
 *
 * @param records options such as "--mx-host=a.example,mx1.example,10".
 * @returns its address and port.
 */
export async function startDnsmasq(t: TestContext, records: readonly string[]): Promise<string> {
  const port = await closedPort();
  const child = spawn(
    'dnsmasq',
    [
      ...['--keep-in-foreground', '--conf-file=/dev/null', '--pid-file', '--log-facility=-'],
      ...[`--port=${port}`, '--listen-address=127.0.0.1', '--bind-interfaces'],
      ...['--no-resolv', '--no-hosts', '--local=/example/', ...records],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const dnsmasq = watch(child);
  t.after(async () => {
    child.kill('SIGKILL');
    await dnsmasq.ended;
  });
  // It has opened its sockets then.
  await dnsmasq.logs(/: started, /);
  return `127.0.0.1:${port}`;
}

/** A DNS server that sends nothing. */
export interface SilentDns {
  /** Its address and port. */
  readonly address: string;
  /** Settles with the first query. */
  readonly asked: Promise<unknown>;
  /** How many queries it has received. */
  queries(): number;
}

/** Starts a DNS server that sends nothing, until the end of the test. */
export async function startSilentDns(t: TestContext): Promise<SilentDns> {
  const socket = createSocket('udp4');
  t.after(() => void socket.close());
  let count = 0;
  socket.on('message', () => {
    count += 1;
  });
  const asked = once(socket, 'message');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return { address: `127.0.0.1:${socket.address().port}`, asked, queries: () => count };
}

/**
 * Starts a DNS server with two MX records for every domain, until the end of the test: a host whose name is one label, of any
 * octets, and mx3.example.
 *
 * @returns its address and port.
 */
export async function startHostileDns(t: TestContext, label: string): Promise<string> {
  const socket = createSocket('udp4');
  t.after(() => void socket.close());
  socket.on('message', (query, { port, address }) => {
    const exchange = Buffer.concat([Buffer.from([label.length]), Buffer.from(label, 'latin1'), Buffer.of(0)]);
    const record = (preference: number, name: Buffer): Buffer => {
      // The name in the question, MX, IN, a TTL, and the length of the data.
      const head = Buffer.from('c00c000f00010000003c00000000', 'hex');
      head.writeUInt16BE(2 + name.length, 10);
      head.writeUInt16BE(preference, 12);
      return Buffer.concat([head, name]);
    };
    const own = Buffer.from('\x03mx3\x07example\x00', 'latin1');
    const question = query.subarray(12, query.indexOf(0, 12) + 5);
    const header = Buffer.from([...query.subarray(0, 2), 0x84, 0, 0, 1, 0, 2, 0, 0, 0, 0]);
    socket.send(Buffer.concat([header, question, record(10, exchange), record(20, own)]), port, address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return `127.0.0.1:${socket.address().port}`;
}
