/**
 * What a client that does no arithmetic can make the server compute: hellos that were recorded once and are sent
 * again and again, each on a connection of its own, as an attacker would.
 *
 * Run as `node --import tsx test/bench/hello.ts [--count N]`, after `make build`. The table goes to stdout. CPU
 * time is that of the server, user and system, for one connection with everything in it, so the first rows are
 * what there is to compare with.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SecureVersion } from 'node:tls';
import { parseArgs } from 'node:util';
import { keyExchangeGroups } from '../../lib/tls/context.ts';
import { recordHello } from '../fuzz/hello-run.ts';
import { makeCertificates } from '../support/certificate.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { median } from './figures.ts';
import { certificateMessage, padded, UNEXPECTED, withTickets } from './hellos.ts';
import { cpuTimeOf } from './processes.ts';
import { nullSmtpd } from './smtpd.ts';

const { values } = parseArgs({ options: { count: { type: 'string', default: '100' } } });
const count = Number(values.count);
const ROUNDS = 5;
/** As many as a client can have verified: OpenSSL goes no deeper. */
const CHAIN = 100;

/** What is sent on each connection, and to which server. */
interface Attack {
  readonly name: string;
  readonly server: RunningServer;
  readonly sent: Buffer;
  /** Whether it is the end that shows that all of it has been worked on, and not the first octet of an answer. */
  readonly untilEnd?: boolean;
  /** One of these many connections is enough. */
  readonly share?: number;
}

const folder = mkdtempSync(join(tmpdir(), 'hello-'));
const certificates = makeCertificates();
const servers: RunningServer[] = [];
try {
  const [load = 0] = loadavg();
  console.log(`Node ${process.version}, ${cpus()[0]?.model.trim()}, load average ${load.toFixed(2)}\n`);
  console.log('| what a client sends | octets | CPU time of the server, ms | least to most |');
  console.log('| --- | ---: | ---: | --- |');
  for (const attack of await listAttacks()) {
    const times: number[] = [];
    for (let round = 0; round < ROUNDS; round++) times.push(await measure(attack));
    const [least, most] = [Math.min(...times), Math.max(...times)].map((time) => time.toFixed(1));
    const cells = [attack.name, attack.sent.length, median(times).toFixed(1), `${least} to ${most}`];
    console.log(`| ${cells.join(' | ')} |`);
  }
} finally {
  for (const server of servers) await server.close();
  certificates.remove();
  rmSync(folder, { recursive: true, force: true });
}

async function listAttacks(): Promise<Attack[]> {
  const ec = certificates.selfSigned('ec');
  const rsa = certificates.selfSigned('rsa', ['rsa:2048']);
  const environment = {
    ...{ CERTFILE: ec.certFile, KEYFILE: ec.keyFile, CERTFILE2: rsa.certFile, KEYFILE2: rsa.keyFile },
    CAFILE: ec.certFile,
  };
  const smtpd = nullSmtpd(folder).command;
  const start = async (...options: string[]): Promise<RunningServer> => {
    const server = await startServer(['-q', '--implicit-tls', ...options], smtpd, { environment });
    servers.push(server);
    return server;
  };
  const plain = await start();
  const asking = await start('-Y');
  const record = (ecdhCurve: string, sigalgs: string, maxVersion: SecureVersion): Promise<Buffer> =>
    recordHello('', { ecdhCurve, sigalgs, minVersion: maxVersion, maxVersion });
  const [ecdsa, pss] = ['ECDSA+SHA256', 'RSA-PSS+SHA256'];
  const usual = await record('X25519', ecdsa, 'TLSv1.3');
  const older = await record('X25519:P-256', ecdsa, 'TLSv1.2');
  const hello = async (name: string, group: string, sigalgs: string): Promise<Attack> => {
    return { name, server: plain, sent: await record(group, sigalgs, 'TLSv1.3') };
  };
  const chain = (name: string, curve: string): Attack => {
    const key = ['ec', '-pkeyopt', `ec_paramgen_curve:${curve}`];
    const pairs = [certificates.selfSigned('0', key)];
    for (const at of Array(CHAIN).keys()) {
      pairs.unshift(certificates.signedBy(pairs[0] ?? ec, `${at + 1}`, key));
    }
    const sent = Buffer.concat([older, certificateMessage(pairs), UNEXPECTED]);
    return { name: `${name}, to a server with -Y`, server: asking, sent, untilEnd: true, share: 10 };
  };
  return [
    { name: 'no TLS', server: plain, sent: Buffer.from('QUIT\r\n'), untilEnd: true },
    { name: 'X25519, ECDSA P-256', server: plain, sent: usual },
    { name: 'the same, to a server with -Y', server: asking, sent: usual },
    { name: 'the same in TLS 1.2', server: plain, sent: older },
    await hello('P-256, ECDSA P-256', 'P-256', ecdsa),
    await hello('P-384, ECDSA P-256', 'P-384', ecdsa),
    ...(hasHybrid() ? [await hello('X25519MLKEM768, ECDSA P-256', 'X25519MLKEM768', ecdsa)] : []),
    await hello('X25519, RSA 2048', 'X25519', pss),
    await hello('P-384, RSA 2048', 'P-384', pss),
    await hello('P-521 alone: refused', 'P-521', ecdsa),
    await hello('ffdhe8192 alone: refused', 'ffdhe8192', ecdsa),
    { name: 'X25519 in a hello of 16 kB', server: plain, sent: padded(usual, 16_000) },
    { name: 'X25519 in a hello of 128 kB', server: plain, sent: padded(usual, 130_000) },
    {
      name: 'X25519, with 1,500 tickets that are none',
      server: plain,
      sent: await withTickets(usual, plain, 1500),
    },
    chain(`${CHAIN + 1} certificates of P-521 in TLS 1.2`, 'P-521'),
    chain(`${CHAIN + 1} certificates of sect571r1 in TLS 1.2`, 'sect571r1'),
  ];
}

/** Whether this Node has it: the server runs on the one that is first on PATH, which is to be the same. */
function hasHybrid(): boolean {
  return keyExchangeGroups(process.versions.openssl).includes('X25519MLKEM768');
}

/** @returns the CPU time that a connection costs the server, in milliseconds. */
async function measure({ server, sent, untilEnd = false, share = 1 }: Attack): Promise<number> {
  const turns = Math.ceil(count / share);
  await play(server.port, sent, untilEnd);
  const before = cpuTimeOf(server.pid);
  for (let turn = 0; turn < turns; turn++) await play(server.port, sent, untilEnd);
  return ((cpuTimeOf(server.pid) - before) * 1000) / turns;
}

function play(port: number, sent: Buffer, untilEnd: boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(sent));
    socket.on('data', () => untilEnd || socket.destroy());
    socket.on('error', () => {});
    socket.on('close', () => resolve());
    socket.setTimeout(20_000, () => reject(new Error('the server does not answer')));
  });
}
