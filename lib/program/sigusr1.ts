/**
 * Import this before any other module, for its side effect: SIGUSR1 no longer opens Node's inspector, as it does in a
 * program without a handler. A debugger can read all memory through the inspector, and any process of the same user
 * may send the signal, such as smtpd.
 */

process.on('SIGUSR1', () => {});
