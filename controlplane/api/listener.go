package api

import "net/netip"

// Listener is who asks, on which device, from where. The gateway tells services; it is never sent.
type Listener struct {
	UserID   string
	DeviceID string
	Client   netip.Addr
}

// DevicesError is a limit of devices that is reached: Reason (also for errors.Is), and the devices that count.
type DevicesError struct {
	Reason error
	Have   []BusyDevice
}

func (e *DevicesError) Error() string { return e.Reason.Error() }
func (e *DevicesError) Unwrap() error { return e.Reason }
