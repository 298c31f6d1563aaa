/** What a TLS session is watched for, with sockets that are made up and seconds that the test counts. */

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { watchSession } from '../../../lib/tls/established.ts';
import { stopIntervals } from '../../support/intervals.ts';

const ENOTCONN = -107;

/** What the two sockets of a session show. */
interface Shown {
  /** What getpeername gives: 0, or the number of an error. */
  peer: number;
  /** Our side has ended, of TLS or below it. */
  tlsFinished: boolean;
  finished: boolean;
  /** Octets of ciphertext that came, of data in them, and that were written and wait. */
  received: number;
  data: number;
  written: number;
  unsent: number;
}

function makeSession(t: TestContext) {
  const { pass: passSeconds, running } = stopIntervals(t);
  const shown: Shown = {
    ...{ peer: 0, tlsFinished: false, finished: false },
    ...{ received: 5000, data: 0, written: 3000, unsent: 0 },
  };
  const connection = new Socket();
  Object.defineProperties(connection, {
    _handle: { value: { writeQueueSize: 0 } },
    bytesRead: { get: () => shown.received },
    bytesWritten: { get: () => shown.written },
    writableFinished: { get: () => shown.finished },
  });
  Object.defineProperty(Reflect.get(connection, '_handle'), 'writeQueueSize', { get: () => shown.unsent });
  const errors: string[] = [];
  const socket = Object.assign(new EventEmitter(), {
    destroyed: false,
    _handle: { getpeername: () => shown.peer },
    destroy: (error?: Error) => {
      socket.destroyed = true;
      errors.push(error?.message ?? '');
      socket.emit('close');
    },
  });
  Object.defineProperties(socket, {
    bytesRead: { get: () => shown.data },
    writableFinished: { get: () => shown.tlsFinished },
  });
  // Sessions share a timer, which stops with the last of them: the next test needs its own.
  t.after(() => {
    socket.emit('close');
    assert.equal(running(), 0, 'a timer is left');
  });
  return { passSeconds, shown, connection, socket, tls: socket as unknown as TLSSocket, errors };
}

describe('watchSession, about resets', () => {
  it('destroys the socket at an end that was a reset', (t) => {
    const { shown, connection, socket, tls, errors } = makeSession(t);
    watchSession(connection, tls, assert.fail);
    shown.peer = ENOTCONN;
    socket.emit('end');
    assert.deepEqual(errors, ['ECONNRESET']);
  });

  it('destroys the socket of a connection that was reset while it was not read', (t) => {
    const { passSeconds, shown, connection, tls, errors } = makeSession(t);
    watchSession(connection, tls, assert.fail);
    passSeconds(10);
    assert.deepEqual(errors, []);
    shown.peer = ENOTCONN;
    passSeconds(1);
    assert.deepEqual(errors, ['ECONNRESET']);
  });

  it('does not destroy the socket at a regular end', (t) => {
    const { connection, socket, tls, errors } = makeSession(t);
    watchSession(connection, tls, assert.fail);
    socket.emit('end');
    assert.deepEqual(errors, []);
  });

  for (const how of ['tlsFinished', 'finished'] as const) {
    it(`does not destroy a connection that both sides have closed, although it has no peer (${how})`, (t) => {
      const { passSeconds, shown, connection, socket, tls, errors } = makeSession(t);
      watchSession(connection, tls, assert.fail);
      shown[how] = true;
      shown.peer = ENOTCONN;
      passSeconds(10);
      socket.emit('end');
      assert.deepEqual(errors, []);
    });
  }
});

describe('watchSession, about records that are not read', () => {
  function watch(t: TestContext) {
    const session = makeSession(t);
    const reasons: string[] = [];
    watchSession(session.connection, session.tls, (why) => reasons.push(why));
    return { ...session, reasons };
  }

  it('ends a session whose client sends records without data and takes no answer', (t) => {
    const { passSeconds, shown, reasons, socket } = watch(t);
    shown.unsent = 50_000;
    passSeconds(1);
    for (let second = 0; second < 9; second++) {
      shown.received += 110_000;
      passSeconds(1);
    }
    assert.deepEqual(reasons, []);
    shown.received += 110_000;
    passSeconds(1);
    assert.deepEqual(reasons, ['the client does not read the answers to its TLS records']);
    assert.equal(socket.destroyed, true);
    passSeconds(10);
    assert.equal(reasons.length, 1);
  });

  it('weighs data less than the overhead of records', (t) => {
    const { passSeconds, shown, reasons } = watch(t);
    shown.unsent = 50_000;
    passSeconds(1);
    // In records of 16 KiB.
    shown.received += 1_001_344_000;
    shown.data += 1_000_000_000;
    passSeconds(1);
    assert.deepEqual(reasons, []);
  });

  it('does not end a session whose client pads its records and reads the replies', (t) => {
    const { passSeconds, shown, reasons } = watch(t);
    for (let command = 0; command < 1000; command++) {
      shown.received += 16_406;
      shown.data += 30;
      shown.written += 60;
      passSeconds(1);
    }
    assert.deepEqual(reasons, []);
  });

  it('does not end a session whose client reads more slowly than it sends', (t) => {
    const { passSeconds, shown, reasons } = watch(t);
    shown.unsent = 65_536;
    for (let second = 0; second < 100; second++) {
      shown.received += 820_000;
      shown.data += 600_000;
      shown.written += 150_000;
      passSeconds(1);
    }
    assert.deepEqual(reasons, []);
  });
});
