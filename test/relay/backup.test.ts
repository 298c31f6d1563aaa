/** Passing mail on as a backup MX, with a real DNS server. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { after, describe, it, type TestContext } from 'node:test';
import { deferred } from '../../lib/program/deferred.ts';
import type { ReachRequest } from '../../lib/smtpd/relay/attempt.ts';
import { formatFailure } from '../../lib/smtpd/relay/failure.ts';
import { reach } from '../../lib/smtpd/relay/reach.ts';
import { parseRelayUrl } from '../../lib/smtpd/relay/url.ts';
import { createTlsClient } from '../../lib/tls/client.ts';
import { readClientCredentials } from '../../lib/tls/client-credentials.ts';
import { makeCertificates } from '../support/certificate.ts';
import { startDnsmasq, startHostileDns, startSilentDns } from '../support/dns.ts';
import { type FarServer, type FarServerOptions, startFarServer } from '../support/far-server.ts';
import { missing } from '../support/programs.ts';
import { closedPort } from '../support/tcp.ts';
import { DEADLINE, within } from '../support/within.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const tls = createTlsClient({
  credentials: readClientCredentials({ CAFILE: authority.certFile }),
  pins: [],
  timeout: DEADLINE,
});

/** The MX hosts of a.example: mx1.example on 127.0.0.2 and mx2.example on 127.0.0.3, before mx3.example. */
const RECORDS = [
  ...['mx3.example,30', 'mx1.example,10', 'mx2.example,20', 'mx4.example,40'].map(mxOf('a.example')),
  ...['--host-record=mx1.example,127.0.0.2', '--host-record=mx2.example,127.0.0.3'],
];

function mxOf(domain: string): (host: string) => string {
  return (host) => `--mx-host=${domain},${host}`;
}

interface Outcome {
  /** The reply for the client; undefined if a server was reached. */
  readonly reply: string | undefined;
  readonly log: readonly string[];
}

/** Tries to reach a server for a domain; what is reached is closed at the end of the test. */
async function reachFor(
  t: TestContext,
  domain: string | undefined,
  resolver: string,
  port: number,
  more: Partial<ReachRequest> = {},
): Promise<Outcome> {
  const log: string[] = [];
  const result = await within(
    DEADLINE,
    'result',
    reach({
      target: parseRelayUrl(`backup://mx3.example:${port}`),
      recipientDomain: domain,
      ...{ tls, resolver, connectTimeout: DEADLINE, replyTimeout: DEADLINE },
      ssh: { program: 'ssh', words: [], environment: {} },
      report: {
        fatal: (text) => void log.push(`fatal: ${text}`),
        warning: (text) => void log.push(`warning: ${text}`),
        info: (text) => void log.push(`info: ${text}`),
      },
      ...{ credentials: undefined, header: undefined, name: 'client.example', abort: new Promise(() => {}) },
      ...more,
    }),
  );
  if (result.type === 'failed') return { reply: formatFailure(result.failure).toString('latin1'), log };
  t.after(() => result.reached.smtpd.kill('SIGKILL'));
  return { reply: undefined, log };
}

/** Starts a server on a port of 127.0.0.2, and one on the same port of 127.0.0.3. */
async function startServers(
  t: TestContext,
  one: FarServerOptions,
  other: FarServerOptions,
): Promise<{ readonly first: FarServer; readonly second: FarServer; readonly port: number }> {
  const first = await startFarServer(t, one, { host: '127.0.0.2', port: 0 });
  const second = await startFarServer(t, other, { host: '127.0.0.3', port: first.port });
  return { first, second, port: first.port };
}

/** The resolver of Node itself may refuse the answer. */
const NAME_REFUSED =
  /^(?:450 4\.4\.4 a\.example: it has no MX host that is preferred to mx3\.example|451 4\.4\.3 a\.example: cannot look up MX records: EBAD[A-Z]+)\r\n$/;

describe('backup://', { skip: missing('dnsmasq') }, () => {
  it('reaches the host with the lowest preference, in TLS, verified by its name', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const pair = certificates.signedBy(authority, 'mx1.example');
    const { first, second, port } = await startServers(t, { pair }, {});
    const { reply, log } = await reachFor(t, 'A.Example', dns, port);
    assert.equal(reply, undefined, log.join('\n'));
    assert.equal(first.connections[0]?.serverName, 'mx1.example');
    assert.match(first.connections[0]?.tls ?? '', /^EHLO client\.example\r\n$/);
    assert.equal(second.connections.length, 0);
    assert.equal(log[0], 'info: MX hosts for A.Example: mx1.example, mx2.example');
    assert.match(log[1] ?? '', /^info: TLS with mx1\.example:\d+: TLSv1\.3 \w+, verified$/);
  });

  it('reaches the next one after one that cannot be connected to', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const { port, connections } = await startFarServer(t, {}, { host: '127.0.0.3', port: 0 });
    const { reply, log } = await reachFor(t, 'a.example', dns, port);
    assert.equal(reply, undefined);
    assert.match(connections[0]?.cleartext ?? '', /^EHLO client\.example\r\n$/);
    assert.equal(log[1], `warning: unable to relay to mx1.example:${port}: cannot connect: ECONNREFUSED`);
  });

  it('reaches the next one after one that has no address, or is not answered for', async (t) => {
    const hosts = ['mx0.example,1', 'mx0.elsewhere,2'].map(mxOf('a.example'));
    const dns = await startDnsmasq(t, [...hosts, ...RECORDS]);
    const { port } = await startFarServer(t, {}, { host: '127.0.0.2', port: 0 });
    const { reply, log } = await reachFor(t, 'a.example', dns, port);
    assert.equal(reply, undefined);
    assert.deepEqual(log.slice(1), [
      `warning: unable to relay to mx0.example:${port}: cannot connect: ENOTFOUND`,
      `warning: unable to relay to mx0.elsewhere:${port}: cannot look up its address: EREFUSED`,
    ]);
  });

  it('reaches a host in cleartext when TLS fails, and does not try the next one', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const pair = certificates.signedBy(authority, 'mx1.example');
    const { first, second, port } = await startServers(t, { pair, breaksHandshake: true }, {});
    const { reply, log } = await reachFor(t, 'a.example', dns, port);
    assert.equal(reply, undefined);
    assert.equal(first.connections.length, 2);
    assert.equal(second.connections.length, 0);
    assert.ok(log.includes(`warning: trying mx1.example:${port} in cleartext`), log.join('\n'));
  });

  it('tries all addresses of a host', async (t) => {
    const dns = await startDnsmasq(t, [...RECORDS, '--host-record=mx1.example,::1']);
    const { port } = await startFarServer(t, {}, { host: '127.0.0.2', port: 0 });
    assert.deepEqual((await reachFor(t, 'a.example', dns, port)).log, [
      'info: MX hosts for a.example: mx1.example, mx2.example',
    ]);
  });

  it('sends neither credentials nor a PROXY header, even to a verified host', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const pair = certificates.signedBy(authority, 'mx1.example');
    const { port, connections } = await startFarServer(t, { pair }, { host: '127.0.0.2', port: 0 });
    const credentials = { user: 'alice', password: 'wonderland' };
    const header = Buffer.from('PROXY UNKNOWN\r\n');
    const { reply, log } = await reachFor(t, 'a.example', dns, port, { credentials, header });
    assert.equal(reply, undefined);
    assert.match(log[1] ?? '', /, verified$/);
    assert.equal(connections[0]?.isAuthenticated, false);
    assert.match(connections[0]?.cleartext ?? '', /^EHLO client\.example\r\nSTARTTLS\r\n/);
  });

  it('gives the reasons of all hosts when none can be reached', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const { port } = await startFarServer(
      t,
      { replies: { greeting: '554 not today' } },
      { host: '127.0.0.3', port: 0 },
    );
    const { reply, log } = await reachFor(t, 'a.example', dns, port);
    const first = `mx1.example:${port}: cannot connect: ECONNREFUSED`;
    const second = `mx2.example:${port}: it refused service: 554 not today`;
    // One of them may be reached later: the refusal of the other one is not final.
    assert.equal(reply, `451 4.4.1 ${first}; ${second}\r\n`);
    assert.deepEqual(log.slice(1), [
      `warning: unable to relay to ${first}`,
      `warning: unable to relay to ${second}`,
    ]);
  });

  it('passes a refusal on when all hosts have refused for good', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const refusal = (greeting: string): FarServerOptions => ({ replies: { greeting } });
    const { port } = await startServers(t, refusal('554 one'), refusal('521 5.3.2 two'));
    const { reply } = await reachFor(t, 'a.example', dns, port);
    assert.match(
      reply ?? '',
      /^521 5\.3\.2 mx1\.example:\d+: .* 554 one; mx2\.example:\d+: .*521 5\.3\.2 two\r\n$/,
    );
  });

  it('tries five hosts at most', async (t) => {
    const numbers = [1, 2, 3, 4, 5, 6];
    const hosts = numbers.map((number) => `h${number}.example,${number}`).map(mxOf('a.example'));
    const addresses = numbers.map((number) => `--host-record=h${number}.example,127.0.0.2`);
    const dns = await startDnsmasq(t, [...hosts, ...addresses, mxOf('a.example')('mx3.example,7')]);
    const { reply } = await reachFor(t, 'a.example', dns, await closedPort());
    assert.deepEqual(reply?.match(/h\d(?=\.example)/g), ['h1', 'h2', 'h3', 'h4', 'h5']);
  });

  /** The domain and the reply, without its end. */
  const UNROUTED: readonly [string | undefined, string][] = [
    ['b.example', '450 4.4.4 b.example: mx3.example is not one of its MX hosts'],
    ['c.example', '450 4.4.4 c.example: it has no MX host that is preferred to mx3.example'],
    ['null.example', '450 4.4.4 null.example: it accepts no mail (null MX)'],
    ['mx1.example', '450 4.4.4 mx1.example: it has no MX records'],
    ['none.example', '450 4.4.4 none.example: it has no MX records'],
    ['[192.0.2.1]', '450 4.4.4 not a domain name: "[192.0.2.1]"'],
    ['[IPv6:::1]', '450 4.4.4 not a domain name: "[IPv6:::1]"'],
    ['192.0.2.1', '450 4.4.4 not a domain name: "192.0.2.1"'],
    ['a.example\0.example', '450 4.4.4 not a domain name: "a.example?.example"'],
    ['a\r\n250 ok', '450 4.4.4 not a domain name: "a??250 ok"'],
    [undefined, '450 4.4.4 not a domain name: ""'],
    ['a.elsewhere', '451 4.4.3 a.elsewhere: cannot look up MX records: EREFUSED'],
  ];

  for (const [domain, expected] of UNROUTED) {
    it(`reaches nothing for ${JSON.stringify(domain)}: ${expected.slice(0, 9)}`, async (t) => {
      const dns = await startDnsmasq(t, [
        ...RECORDS,
        ...['mx1.example,10', 'mx2.example,20'].map(mxOf('b.example')),
        ...['mx3.example,10', 'mx1.example,10', 'mx2.example,20'].map(mxOf('c.example')),
        '--mx-host=null.example,.,0',
      ]);
      const { first, port } = await startServers(t, {}, {});
      const { reply, log } = await reachFor(t, domain, dns, port);
      assert.equal(reply, `${expected}\r\n`);
      assert.equal(log.length, 1);
      assert.ok(log[0]?.startsWith(`warning: unable to relay to backup://mx3.example:${port}: `), log[0]);
      assert.equal(first.connections.length, 0);
    });
  }

  it('gives 451 4.4.3 when there is no DNS server', async (t) => {
    const { reply } = await reachFor(t, 'a.example', `127.0.0.1:${await closedPort()}`, 2525);
    assert.equal(reply, '451 4.4.3 a.example: cannot look up MX records: ECONNREFUSED\r\n');
  });

  it('gives 451 4.4.3 when the DNS server does not answer in time', async (t) => {
    const { address, queries } = await startSilentDns(t);
    const { reply } = await reachFor(t, 'a.example', address, 2525, { connectTimeout: 50 });
    assert.equal(reply, '451 4.4.3 a.example: cannot look up MX records: ETIMEOUT\r\n');
    // Node would repeat the query after five seconds.
    assert.ok(queries() <= 1);
  });

  it('ends the wait for DNS when the session ends', async (t) => {
    const { address, asked } = await startSilentDns(t);
    const { promise: abort, resolve } = deferred();
    void asked.then(() => resolve());
    const { reply } = await reachFor(t, 'a.example', address, 2525, { abort });
    assert.equal(reply, '451 4.4.3 a.example: cannot look up MX records: ECANCELLED\r\n');
  });

  it('tries no other host when the session ends', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const { promise: abort, resolve } = deferred();
    const listener = createServer((socket) => {
      t.after(() => socket.destroy());
      socket.write('220 ready\r\n');
      // EHLO.
      socket.once('data', () => resolve());
    });
    t.after(() => void listener.close());
    listener.listen(0, '127.0.0.2');
    await once(listener, 'listening');
    const { port } = listener.address() as AddressInfo;
    const { reply, log } = await reachFor(t, 'a.example', dns, port, { abort });
    assert.equal(reply, `451 4.4.2 mx1.example:${port}: shutting down\r\n`);
    // The server is not at fault.
    assert.equal(log.length, 1);
  });

  it('tries no other host when the time for all of them has passed', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const { port } = await startFarServer(
      t,
      { replies: { greeting: '220-wait' } },
      { host: '127.0.0.2', port: 0 },
    );
    const { reply, log } = await reachFor(t, 'a.example', dns, port, { reachTimeout: 3000 });
    assert.equal(reply, `451 4.4.2 mx1.example:${port}: no reply in time\r\n`);
    assert.equal(log[1], `warning: unable to relay to mx1.example:${port}: no reply in time`);
  });

  it('is counted by its URL, not by those of the hosts', async (t) => {
    const dns = await startDnsmasq(t, RECORDS);
    const { port } = await startFarServer(t, {}, { host: '127.0.0.3', port: 0 });
    const counted: string[] = [];
    const concluded = (url: string, result: string): void => void counted.push(`${url} ${result}`);
    await reachFor(t, 'a.example', dns, port, { concluded });
    await reachFor(t, 'elsewhere.invalid', dns, port, { concluded });
    const url = `backup://mx3.example:${port}`;
    assert.deepEqual(counted, [`${url} reached`, `${url} no-dns`]);
  });

  for (const address of ['127.0.0.1', '127.1.2.3', '0.0.0.0', '::1', '::', '::ffff:127.0.0.1']) {
    it(`does not connect to this machine on port 25, nor to a host after it: ${address}`, async (t) => {
      const hosts = ['here.example,10', 'mx1.example,20', 'mx3.example,30'].map(mxOf('b.example'));
      const dns = await startDnsmasq(t, [...hosts, `--host-record=here.example,${address}`]);
      const { reply, log } = await reachFor(t, 'b.example', dns, 25);
      assert.equal(reply, `450 4.4.4 here.example:25: ${address} is this machine\r\n`);
      assert.equal(log.length, 2);
    });
  }

  for (const label of ['127.0.0.1', 'a\r\n250 ok', 'a b', 'mx@a', '\0', '[::1]', 'mx/x', 'mx:1']) {
    it(`ignores an MX host with the name ${JSON.stringify(label)}`, async (t) => {
      const dns = await startHostileDns(t, label);
      const { reply, log } = await reachFor(t, 'a.example', dns, 2525);
      assert.ok(NAME_REFUSED.test(reply ?? ''), reply);
      assert.equal(log.length, 1);
    });
  }
});
