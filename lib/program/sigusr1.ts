/**
 * To be imported before anything else, for its effect: from here on SIGUSR1 does not open Node's inspector, as it
 * does in a program without a handler. Who connects to the inspector can read all of the memory, and any process
 * of the same user may send the signal, smtpd for one.
 */

process.on('SIGUSR1', () => {});
