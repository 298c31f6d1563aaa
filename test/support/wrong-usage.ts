import assert from 'node:assert/strict';
import { Failure } from '../../lib/program/failure.ts';

/** Asserts a usage error, status 100, whose message contains the input. */
export function assertWrongUsage(act: () => unknown, shown: string): void {
  assert.throws(act, (error) => {
    assert.ok(error instanceof Failure);
    assert.equal(error.status, 100);
    assert.match(error.message, /^usage error: expected /);
    assert.ok(error.message.includes(shown), `${error.message} does not show ${shown}`);
    assert.ok(!error.message.includes('\n'), 'a message is one line');
    return true;
  });
}
