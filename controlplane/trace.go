package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"segue/internal/serve"

	"github.com/danielgtaylor/huma/v2"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// tracing sends spans to a collector. nil: there is none, and spans cost nothing.
type tracing struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// openTracing takes a collector's OTLP/HTTP address, as http://collector:4318; empty: none. It does not connect yet: a
// collector that is away loses spans and nothing else.
func openTracing(ctx context.Context, log *slog.Logger, endpoint, version, replica string) (*tracing, error) {
	if endpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, serve.Setupf("--trace-endpoint %q: want http://collector:4318", endpoint)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()))
	if err != nil {
		return nil, serve.Setupf("--trace-endpoint: %w", err)
	}
	// The library's only way to say that spans were lost; by default it writes to the standard log.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Debug("traces are lost", "err", err) }))
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter, sdk.WithBatchTimeout(2*time.Second)), sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample())),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "segue-controlplane"), attribute.String("service.version", version), attribute.String("service.instance.id", replica))))
	return &tracing{p, p.Tracer("segue/controlplane")}, nil
}

// close sends what is left.
func (t *tracing) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // the collector may be gone
}

// span begins the work of another part below the request's span; end ends it. Text of statements is constant here: values
// travel as arguments, so none is in a name.
func (t *tracing) span(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, func(error)) {
	if t == nil || !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, func(error) {}
	}
	ctx, s := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))
	return ctx, func(err error) {
		if err != nil {
			s.SetStatus(codes.Error, "") // its text may hold values
		}
		s.End()
	}
}

// statement is the seam of store.DB.
func (t *tracing) statement(ctx context.Context, text string) (context.Context, func(error)) {
	return t.span(ctx, "sql", attribute.String("db.query.text", text))
}

// observe measures an operation, and opens its span: a child of the caller's when there is a traceparent (W3C).
func (cp *ControlPlane) observe(op *huma.Operation, next http.Handler) http.Handler {
	if op.OperationID == "" {
		op.OperationID = "openapi"
	}
	seconds := cp.metrics.seconds.WithLabelValues(op.OperationID)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		v := visitOf(r.Context())
		v.operation = op.OperationID
		w := &watched{ResponseWriter: rw}
		var span trace.Span
		if cp.tracing != nil {
			ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
			ctx, span = cp.tracing.tracer.Start(ctx, op.OperationID, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
				attribute.String("http.request.method", r.Method), attribute.String("http.route", op.Path), attribute.String("segue.request", v.id)))
			r = r.WithContext(ctx)
		}
		whole := false
		defer func() {
			status := w.status
			if !whole {
				status = http.StatusInternalServerError // it panicked: guard answers
			}
			cp.metrics.requests.WithLabelValues(op.OperationID, strconv.Itoa(status)).Inc()
			seconds.Observe(time.Since(begun).Seconds())
			if span != nil {
				span.SetAttributes(attribute.Int("http.response.status_code", status))
				if status >= 500 {
					span.SetStatus(codes.Error, fmt.Sprint(status))
				}
				span.End()
			}
		}()
		next.ServeHTTP(w, r)
		whole = true
	})
}
